-- idempotency/store_key: keep a key with its answer; a checkout's comes later than the key, so both may be null.
--
-- caller   service.shop.idempotency.finish
-- param    $1 id bytea
-- param    $2 request_digest bytea
-- param    $3 order_id uuid
-- param    $4 status integer
-- param    $5 location text
-- param    $6 answer bytea
-- returns  none
-- locks    the key's row, FOR NO KEY UPDATE; the order, FOR KEY SHARE; to commit
-- waits    for nothing: idempotency/lock_key holds the key
-- index    idempotency_keys_pkey
-- rows     1
-- guards   none
INSERT INTO idempotency_keys (id, request_digest, order_id, status, location, answer)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE
    SET
        request_digest = excluded.request_digest,
        order_id = excluded.order_id,
        status = excluded.status,
        location = excluded.location,
        answer = excluded.answer,
        created_at = now();
