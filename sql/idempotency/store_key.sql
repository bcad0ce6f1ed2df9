-- idempotency/store_key: store a key with its response; a checkout stores its key first and its response later.
-- A stored response stays for 24 hours, or until its order was cancelled, as in idempotency/find_key. The rule is
-- repeated here because a checkout stores its response without idempotency/lock_key.
--
-- callers  service.shop.idempotency.store_response
-- param    $1 key_id bytea
-- param    $2 request_digest bytea
-- param    $3 order_id uuid null
-- param    $4 status integer null
-- param    $5 location text null
-- param    $6 answer bytea null
-- returns  none
-- locks    idempotency_keys NO KEY UPDATE; orders KEY SHARE; new idempotency_keys; to commit
-- waits    on idempotency_keys, orders for a checkout that stores the same key, and for the order's erasure; 55P03
--          after lock_timeout -> busy
-- index    idempotency_keys_pkey, orders_pkey
-- rows     0..1
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
        -- A checkout's second call keeps the time of its first. Another time would need new index entries (not HOT).
        created_at = CASE
            WHEN idempotency_keys.order_id = excluded.order_id THEN idempotency_keys.created_at
            ELSE now()
        END
    WHERE
    idempotency_keys.status IS NULL
    OR idempotency_keys.created_at <= now() - interval '24 hours'
    OR EXISTS (
        SELECT
        FROM orders
        WHERE
            orders.id = idempotency_keys.order_id
            AND (idempotency_keys.status IS NULL OR idempotency_keys.location IS NOT NULL)
            AND (orders.status = 'CANCELLED' OR orders.hold > 1)
    );
