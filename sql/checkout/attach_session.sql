-- checkout/attach_session: keep the session that Stripe made for a pending order.
--
-- caller   service.shop.session.attach
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 checkout_url text
-- returns  none; nothing is done when the order is no longer pending
-- locks    the order, then its payment, FOR NO KEY UPDATE, to commit
-- waits    for transitions of the same order; 55P03 after lock_timeout -> busy
-- index    orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH pending AS MATERIALIZED (
    SELECT id
    FROM orders
    WHERE id = $1 AND status = 'PENDING_PAYMENT'
    FOR NO KEY UPDATE
)

UPDATE payments
SET
    stripe_session_id = $2,
    checkout_url = $3,
    claimed_until = NULL,
    updated_at = now()
WHERE order_id = (SELECT id FROM pending) AND status = 'INITIATED';
