-- settlement/mark_processing: record that a payment takes days; the units stay on hold until it settles.
-- With the payer's e-mail address: without it, a stranger with the order's id could claim it for days.
--
-- callers  service.shop.settlement.apply_session
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 cause text
-- param    $4 recheck_seconds double precision
-- param    $5 actor text
-- param    $6 email text null
-- param    $7 email_digest bytea null
-- returns  one or none; none = the payment is no longer INITIATED
-- locks    payments UPDATE; orders NO KEY UPDATE; new order_events; to commit
-- waits    for nothing: transitions/lock_order has locked the rows
-- index    payments_one_per_order, orders_pkey
-- rows     0..1
-- guards   none
WITH payment AS (
    UPDATE payments
    SET
        status = 'PROCESSING',
        stripe_session_id = $2,
        checkout_url = NULL,
        session_parameters = NULL,
        claimed_until = NULL,
        updated_at = now()
    WHERE order_id = $1 AND status = 'INITIATED'
    RETURNING order_id
),

processing_order AS (
    UPDATE orders
    SET
        email = CASE WHEN orders.erased_at IS NULL THEN $6 END,
        email_digest = CASE WHEN orders.erased_at IS NULL THEN $7::bytea END,
        next_attempt_at = now() + make_interval(secs => $4),
        attempts = 0
    FROM payment
    -- Appending '' stops the planner from reading all orders in this status through orders_by_status.
    WHERE orders.id = payment.order_id AND orders.status || '' = 'PENDING_PAYMENT'
    RETURNING
        orders.id,
        orders.status
),

history AS (
    INSERT INTO order_events (order_id, from_status, to_status, cause, note, actor)
    SELECT
        id,
        status AS from_status,
        status AS to_status,
        $3,
        'payment processing',
        $5
    FROM processing_order
)

SELECT id
FROM processing_order;
