-- audit_log/list_entries_of_subject: a keyset page of what staff did to one subject, newest first.
-- A range of audit_log_by_subject instead of `subject = $1`. With equality a plan may walk all entries by id instead,
-- past millions of others if the subject is rare.
--
-- callers  service.shop.audit_log.list_entries
-- param    $1 subject text
-- param    $2 before_id bigint
-- param    $3 limit bigint
-- returns  many by subject descending, id descending; none = nothing older of this subject
-- locks    none
-- waits    none
-- index    audit_log_by_subject
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
WHERE (subject, id) < ($1, $2) AND subject >= $1
ORDER BY
    subject DESC,
    id DESC
LIMIT $3;
