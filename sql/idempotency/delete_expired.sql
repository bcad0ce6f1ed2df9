-- idempotency/delete_expired: forget keys older than 24 hours, a batch at a time.
--
-- caller   service.shop.sweep.tidy
-- param    $1 limit bigint
-- returns  none
-- locks    the expired rows, FOR NO KEY UPDATE SKIP LOCKED, then FOR UPDATE to delete them, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    idempotency_keys_by_age, idempotency_keys_pkey
-- rows     0..1000
-- guards   none
WITH expired AS MATERIALIZED (
    SELECT id
    FROM idempotency_keys
    WHERE created_at < now() - interval '24 hours'
    ORDER BY created_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)

DELETE FROM idempotency_keys
USING expired
WHERE idempotency_keys.id = expired.id;
