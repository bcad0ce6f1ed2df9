-- checkout/attach_session: keep the session that Stripe made for a pending order.
--
-- caller   service.shop.session.attach
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 checkout_url text
-- returns  none; nothing is done when the order is no longer pending
-- locks    orders NO KEY UPDATE; payments UPDATE; to commit
-- waits    on orders, payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH pending AS MATERIALIZED (
    SELECT id
    FROM orders
    -- With the empty text, so that it is found by its id and never among all that are in this status.
    WHERE id = $1 AND status || '' = 'PENDING_PAYMENT'
    FOR NO KEY UPDATE
)

UPDATE payments
SET
    stripe_session_id = $2,
    checkout_url = $3,
    claimed_until = NULL,
    updated_at = now()
WHERE order_id = (SELECT id FROM pending) AND status = 'INITIATED';
