-- fulfilment/mark_fulfilled: mark a paid order as fulfilled.
-- Not while one of its Stripe events is unhandled: that event may report a whole refund.
--
-- callers  service.shop.fulfilment._fulfil
-- param    $1 order_id uuid
-- param    $2 cause text
-- param    $3 actor text
-- returns  one or none; none = it is not PAID, or one of its events is unhandled
-- locks    orders NO KEY UPDATE; new order_events, event_deliveries; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    orders_pkey, stripe_events_by_order, stripe_events_unhandled_by_payment, payments_one_per_order,
--          event_endpoints_active
-- rows     0..1
-- guards   never orders_one_live_per_cart -> cart_not_open
WITH fulfilled_order AS (
    UPDATE orders
    SET
        status = 'FULFILLED',
        fulfilled_at = now(),
        next_attempt_at = NULL,
        attempts = 0
    WHERE
        id = $1
        -- Appending '' stops the planner from reading all orders in this status through orders_by_status.
        AND status || '' = 'PAID'
        AND NOT EXISTS (SELECT FROM stripe_events WHERE order_id = $1 AND handled_at IS NULL)
        -- An event stored before the payment was known has no order_id, but names the payment intent.
        AND NOT EXISTS (
            SELECT FROM stripe_events
            WHERE
                payload #>> '{data,object,payment_intent}'
                = (SELECT stripe_payment_intent_id FROM payments WHERE order_id = $1)
                AND handled_at IS NULL
        )
    RETURNING
        id,
        number,
        total_minor,
        currency,
        gen_random_uuid() AS event_id
),

history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause, actor)
    SELECT
        id,
        'PAID',
        'FULFILLED',
        $2,
        $3
    FROM fulfilled_order
),

event AS (
    INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
    SELECT
        event_endpoints.id,
        fulfilled_order.event_id,
        'order.fulfilled',
        'order:' || fulfilled_order.id,
        jsonb_build_object(
            'order_id', fulfilled_order.id,
            'number', fulfilled_order.number,
            'status', 'FULFILLED',
            'total_minor', fulfilled_order.total_minor,
            'currency', fulfilled_order.currency
        )
    FROM fulfilled_order
    INNER JOIN event_endpoints ON event_endpoints.active AND 'order.fulfilled' = any(event_endpoints.types)
)

SELECT id
FROM fulfilled_order;
