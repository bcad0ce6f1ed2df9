-- idempotency/find_key: what was answered to the first request with this key.
-- A statement after the lock, as its snapshot must be newer than what the lock waited out.
--
-- caller   service.shop.idempotency.begin
-- param    $1 id bytea
-- returns  one or none; none = the key is new, or older than 24 hours
-- locks    none
-- waits    none
-- index    idempotency_keys_pkey
-- rows     0..1
-- guards   none
SELECT
    request_digest,
    status,
    location,
    answer
FROM idempotency_keys
WHERE id = $1 AND created_at > now() - interval '24 hours';
