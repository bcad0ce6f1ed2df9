-- audit_state/list_sessions: orders by number, each with its payment session, for a comparison with Stripe.
-- A pending order has none here: its payment may still come, and its expiry asks Stripe.
--
-- callers  service.shop.audit._check_payments
-- param    $1 after_number bigint
-- returns  many by number; none = there is no other order
-- locks    none
-- waits    none
-- index    orders_number_unique, payments_one_per_order
-- rows     0..100 by LIMIT
-- guards   none
SELECT
    orders.number,
    orders.id AS order_id,
    CASE WHEN orders.status <> 'PENDING_PAYMENT' THEN payments.stripe_session_id END AS stripe_session_id
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE orders.number > $1
ORDER BY orders.number
LIMIT 100;
