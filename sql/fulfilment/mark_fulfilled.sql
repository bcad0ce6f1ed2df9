-- fulfilment/mark_fulfilled: a paid order is done.
-- Not while Stripe has told something of it that is still to be looked into: it may be a whole refund.
--
-- callers  service.shop.fulfilment._fulfil
-- param    $1 order_id uuid
-- param    $2 cause text
-- returns  one or none; none = it is not PAID, or not yet
-- locks    orders NO KEY UPDATE; new order_events; to commit
-- waits    for nothing: transitions/lock_order holds the order
-- index    orders_pkey, stripe_events_by_order, stripe_events_unhandled_by_payment, payments_one_per_order
-- rows     0..1
-- guards   never orders_one_live_per_cart -> cart_not_open
WITH fulfilled AS (
    UPDATE orders
    SET
        status = 'FULFILLED',
        fulfilled_at = now(),
        next_attempt_at = NULL,
        attempts = 0
    WHERE
        id = $1
        -- With the empty text, so that it is found by its id and never among all that are in this status.
        AND status || '' = 'PAID'
        AND NOT EXISTS (SELECT FROM stripe_events WHERE order_id = $1 AND handled_at IS NULL)
        -- What came before its payment was known names only that.
        AND NOT EXISTS (
            SELECT FROM stripe_events
            WHERE
                payload #>> '{data,object,payment_intent}'
                = (SELECT stripe_payment_intent_id FROM payments WHERE order_id = $1)
                AND handled_at IS NULL
        )
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
