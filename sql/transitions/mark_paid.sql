-- transitions/mark_paid: mark a pending order, or a cancelled one that got its stock again, as paid.
-- An order whose personal data were erased gets no e-mail address again.
--
-- callers  service.shop.transitions.mark_paid
-- param    $1 order_id uuid
-- param    $2 from_status text
-- param    $3 hold_number integer
-- param    $4 stripe_session_id text
-- param    $5 stripe_payment_intent_id text null
-- param    $6 email text null
-- param    $7 email_digest bytea null
-- param    $8 cause text
-- param    $9 actor text
-- returns  one or none; none = it is no longer in $2
-- locks    orders, carts NO KEY UPDATE; payments UPDATE; new order_events, event_deliveries; to commit
-- waits    for nothing: transitions/lock_order has locked the rows
-- index    orders_pkey, payments_one_per_order, carts_pkey, event_endpoints_active
-- rows     0..1
-- guards   orders_one_live_per_cart -> cart_not_open, payments_payment_intent_once -> busy
WITH paid_order AS (
    UPDATE orders
    SET
        status = 'PAID',
        hold = $3,
        -- It limits pending orders only.
        client = NULL,
        client_network = NULL,
        email = CASE WHEN erased_at IS NULL THEN $6 END,
        email_digest = CASE WHEN erased_at IS NULL THEN $7::bytea END,
        paid_at = now(),
        cancelled_at = NULL,
        next_attempt_at = now(),
        attempts = 0
    WHERE id = $1 AND status = $2 AND $2 IN ('PENDING_PAYMENT', 'CANCELLED')
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
        status = 'SUCCEEDED',
        stripe_session_id = $4,
        stripe_payment_intent_id = $5,
        checkout_url = NULL,
        session_parameters = NULL,
        claimed_until = NULL,
        updated_at = now()
    FROM paid_order
    WHERE
        payments.order_id = paid_order.id
        AND payments.status IN ('INITIATED', 'PROCESSING', 'FAILED', 'EXPIRED')
),

cart AS (
    UPDATE carts
    SET
        status = 'CHECKED_OUT',
        updated_at = now()
    FROM paid_order
    WHERE carts.id = paid_order.cart_id AND carts.status = 'OPEN'
),

history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause, actor)
    SELECT
        id,
        $2,
        'PAID',
        $8,
        $9
    FROM paid_order
),

event AS (
    INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
    SELECT
        event_endpoints.id,
        paid_order.event_id,
        'order.paid',
        'order:' || paid_order.id,
        jsonb_build_object(
            'order_id', paid_order.id,
            'number', paid_order.number,
            'status', 'PAID',
            'total_minor', paid_order.total_minor,
            'currency', paid_order.currency
        )
    FROM paid_order
    INNER JOIN event_endpoints ON event_endpoints.active AND 'order.paid' = any(event_endpoints.types)
)

SELECT id
FROM paid_order;
