-- audit_log/list_entries_by_actor: a keyset page of what one actor did, newest first.
-- A range of audit_log_by_actor, as in audit_log/list_entries_of_subject.
--
-- callers  service.shop.audit_log.list_entries
-- param    $1 actor text
-- param    $2 before_id bigint
-- param    $3 limit bigint
-- returns  many by actor descending, id descending; none = nothing older by this actor
-- locks    none
-- waits    none
-- index    audit_log_by_actor
-- rows     0..101 by LIMIT $3, usually 21
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
WHERE (actor, id) < ($1, $2) AND actor >= $1
ORDER BY
    actor DESC,
    id DESC
LIMIT $3;
