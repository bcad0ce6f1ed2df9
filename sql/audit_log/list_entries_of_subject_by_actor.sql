-- audit_log/list_entries_of_subject_by_actor: a keyset page of what one actor did to one subject, newest first.
-- A range of audit_log_by_subject, as in audit_log/list_entries_of_subject: a subject has fewer entries than an actor.
--
-- callers  service.shop.audit_log.add_once, service.shop.audit_log.list_entries
-- param    $1 subject text
-- param    $2 actor text
-- param    $3 before_id bigint
-- param    $4 limit bigint
-- returns  many by subject descending, id descending; none = nothing older
-- locks    none
-- waits    none
-- index    audit_log_by_subject
-- rows     0..101 by LIMIT $4, usually 21
-- guards   none
SELECT
    id,
    at,
    actor,
    action,
    subject,
    before,
    after,
    request_id
FROM audit_log
WHERE
    (subject, id) < ($1, $3) AND subject >= $1
    -- Appending '' stops the planner from reading all entries of this actor through audit_log_by_actor.
    AND actor || '' = $2
ORDER BY
    subject DESC,
    id DESC
LIMIT $4;
