-- retention/delete_keys: forget keys older than 24 hours, a batch at a time.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 limit bigint
-- returns  none
-- locks    idempotency_keys UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    idempotency_keys_by_age, idempotency_keys_pkey
-- rows     0..100 by service.shop.sweep.BATCH
-- guards   none
WITH expired AS MATERIALIZED (
    SELECT id
    FROM idempotency_keys
    WHERE created_at < now() - interval '24 hours'
    ORDER BY created_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)

-- As an array, as a join with so many rows as LIMIT lets a generic plan expect would read the table whole.
DELETE FROM idempotency_keys
WHERE id = any(array(SELECT id FROM expired));
