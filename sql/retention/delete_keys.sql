-- retention/delete_keys: delete idempotency keys older than 24 hours, a batch at a time, oldest first.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 limit bigint
-- returns  none
-- locks    idempotency_keys UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    idempotency_keys_by_age, idempotency_keys_pkey
-- rows     0..100 by service.shop.retention.BATCH
-- guards   none
WITH expired AS MATERIALIZED (
    SELECT id
    FROM idempotency_keys
    WHERE created_at < now() - interval '24 hours'
    ORDER BY created_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)

-- An array: for a join, a generic plan expects many rows from an unknown LIMIT and reads the whole table.
DELETE FROM idempotency_keys
WHERE id = any(array(SELECT id FROM expired));
