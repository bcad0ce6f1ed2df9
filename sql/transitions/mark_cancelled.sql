-- transitions/mark_cancelled: cancel orders, and open their carts again.
-- An open payment gets the status $3. A captured one keeps its status, which its refund decides.
--
-- callers  service.shop.transitions.cancel
-- param    $1 order_ids uuid[]
-- param    $2 from_status text
-- param    $3 payment_status text
-- param    $4 cause text
-- param    $5 note text null
-- param    $6 actor text
-- returns  many in no order; none = they are no longer in $2
-- locks    orders, carts, payments NO KEY UPDATE; new order_events, event_deliveries; to commit
-- waits    for nothing: transitions/lock_orders has locked the rows
-- index    orders_pkey, payments_one_per_order, carts_pkey, event_endpoints_active
-- rows     0..100 by service.shop.sweep.BATCH, usually 1
-- guards   never orders_one_live_per_cart -> cart_not_open
WITH cancelled_order AS (
    UPDATE orders
    SET
        status = 'CANCELLED',
        cancelled_at = now(),
        -- It limits pending orders only.
        client = NULL,
        client_network = NULL,
        next_attempt_at = NULL,
        attempts = 0
    -- Appending '' stops the planner from reading all orders in this status through orders_by_status.
    WHERE id = any($1) AND status || '' = $2 AND $2 IN ('PENDING_PAYMENT', 'PAID')
    RETURNING
        id,
        cart_id,
        number,
        total_minor,
        currency,
        gen_random_uuid() AS event_id
),

payment AS (
    UPDATE payments
    SET
        status = $3,
        checkout_url = NULL,
        session_parameters = NULL,
        claimed_until = NULL,
        updated_at = now()
    FROM cancelled_order
    WHERE payments.order_id = cancelled_order.id AND payments.status IN ('INITIATED', 'PROCESSING')
),

cart AS (
    UPDATE carts
    SET
        status = 'OPEN',
        updated_at = now()
    FROM cancelled_order
    WHERE carts.id = cancelled_order.cart_id
),

history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause, note, actor)
    SELECT
        id,
        $2,
        'CANCELLED',
        $4,
        $5,
        $6
    FROM cancelled_order
),

event AS (
    INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
    SELECT
        event_endpoints.id,
        cancelled_order.event_id,
        'order.cancelled',
        'order:' || cancelled_order.id,
        jsonb_build_object(
            'order_id', cancelled_order.id,
            'number', cancelled_order.number,
            'status', 'CANCELLED',
            'total_minor', cancelled_order.total_minor,
            'currency', cancelled_order.currency
        )
    FROM cancelled_order
    INNER JOIN event_endpoints ON event_endpoints.active AND 'order.cancelled' = any(event_endpoints.types)
)

SELECT id
FROM cancelled_order;
