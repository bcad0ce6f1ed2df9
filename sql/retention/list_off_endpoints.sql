-- retention/list_off_endpoints: the endpoints that are switched off or deleted.
--
-- callers  service.shop.retention.delete_expired
-- returns  many by id; none = all are active
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..n, usually 0
-- guards   none
SELECT
    id,
    deleted_at IS NOT NULL AS deleted
FROM event_endpoints
WHERE NOT active
ORDER BY id;
