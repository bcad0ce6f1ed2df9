-- payment_session/attach_session: store the Stripe session of a pending order; returns what its checkout answers.
-- Its parameters are deleted, because an attached session is never created again.
--
-- callers  service.shop.payment_session.attach
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 checkout_url text null
-- returns  one or none; none = the order or its payment is no longer waiting for a session
-- locks    orders NO KEY UPDATE; payments UPDATE; to commit
-- waits    on orders, payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH pending_order AS MATERIALIZED (
    SELECT
        id,
        number,
        total_minor,
        currency,
        expires_at
    FROM orders
    -- Appending '' stops the planner from reading all orders in this status through orders_by_status.
    WHERE id = $1 AND status || '' = 'PENDING_PAYMENT'
    FOR NO KEY UPDATE
)

UPDATE payments
SET
    stripe_session_id = $2,
    checkout_url = $3,
    session_parameters = NULL,
    claimed_until = NULL,
    updated_at = now()
FROM pending_order
WHERE payments.order_id = pending_order.id AND payments.status = 'INITIATED'
RETURNING
    payments.id AS payment_id,
    payments.status AS payment_status,
    pending_order.number,
    pending_order.total_minor,
    pending_order.currency,
    pending_order.expires_at;
