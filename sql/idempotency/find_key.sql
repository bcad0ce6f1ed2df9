-- idempotency/find_key: the stored response of an idempotency key.
-- A separate statement after idempotency/lock_key: its snapshot includes what the lock's previous owner committed.
-- A checkout's response is void once its order was cancelled, even if a late payment revived the order (hold > 1).
-- Of the responses about an order only a checkout's has a location.
--
-- callers  service.shop.idempotency.find_stored_response
-- param    $1 key_id bytea
-- returns  one or none; none = the key is new, older than 24 hours, or its order was cancelled
-- locks    none
-- waits    none
-- index    idempotency_keys_pkey, orders_pkey
-- rows     0..1
-- guards   none
SELECT
    request_digest,
    status,
    location,
    answer
FROM idempotency_keys
WHERE
    id = $1
    AND created_at > now() - interval '24 hours'
    AND NOT EXISTS (
        SELECT
        FROM orders
        WHERE
            orders.id = idempotency_keys.order_id
            AND (idempotency_keys.status IS NULL OR idempotency_keys.location IS NOT NULL)
            AND (orders.status = 'CANCELLED' OR orders.hold > 1)
    );
