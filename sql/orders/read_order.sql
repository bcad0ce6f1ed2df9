-- orders/read_order: an order with its payment.
-- stripe_deadline_passed: the session ended ten minutes ago, so expiry no longer waits for Stripe's answer.
--
-- callers  service.shop.orders.read
-- param    $1 order_id uuid
-- param    $2 user_id text null
-- param    $3 reads_all boolean
-- returns  one or none; none = no such order, or another's
-- locks    none
-- waits    none
-- index    orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
SELECT
    orders.id,
    orders.number,
    orders.cart_id,
    orders.user_id,
    orders.claimed,
    orders.status,
    orders.total_minor,
    orders.currency,
    orders.reference,
    orders.email,
    orders.expires_at,
    orders.created_at,
    orders.paid_at,
    orders.fulfilled_at,
    orders.cancelled_at,
    payments.id AS payment_id,
    payments.status AS payment_status,
    payments.amount_minor,
    payments.refunded_minor,
    payments.attempt,
    payments.stripe_session_id,
    payments.stripe_payment_intent_id,
    CASE WHEN orders.status = 'PENDING_PAYMENT' AND payments.status = 'INITIATED' THEN payments.checkout_url END
        AS checkout_url,
    orders.expires_at <= now() AS hold_expired,
    extract(EPOCH FROM now() - orders.created_at)::bigint AS age_seconds,
    payments.session_expires_at + interval '10 minutes' < now() AS stripe_deadline_passed
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE orders.id = $1 AND (orders.user_id IS NULL OR orders.user_id = $2 OR $3);
