-- audit_log/list_entries: a keyset page of what staff did, newest first.
--
-- callers  service.shop.audit_log.list_entries
-- param    $1 before_id bigint
-- param    $2 limit bigint
-- returns  many by id descending; none = nothing older
-- locks    none
-- waits    none
-- index    audit_log_pkey
-- rows     0..101 by LIMIT $2, usually 21
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
WHERE id < $1
ORDER BY id DESC
LIMIT $2;
