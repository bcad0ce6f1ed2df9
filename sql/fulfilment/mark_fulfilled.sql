-- fulfilment/mark_fulfilled: a paid order is done.
--
-- caller   service.shop.fulfilment._fulfil
-- param    $1 id uuid
-- param    $2 cause text
-- returns  one or none; none = it is not PAID
-- locks    the order, FOR NO KEY UPDATE (held already), to commit
-- waits    for nothing: orders/lock_order holds the row
-- index    orders_pkey
-- rows     0..1
-- guards   none
WITH fulfilled AS (
    UPDATE orders
    SET
        status = 'FULFILLED',
        fulfilled_at = now(),
        next_attempt_at = NULL,
        attempts = 0
    WHERE id = $1 AND status = 'PAID'
    RETURNING id
),

history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause)
    SELECT
        id,
        'PAID',
        'FULFILLED',
        $2
    FROM fulfilled
)

SELECT id
FROM fulfilled;
