-- payment_session/attach_session: keep the session that Stripe made for a pending order; what its checkout answers.
--
-- callers  service.shop.payment_session.attach
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 checkout_url text null
-- returns  one or none; none = the order is no longer pending, or its payment is on its way
-- locks    orders NO KEY UPDATE; payments UPDATE; to commit
-- waits    on orders, payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH pending AS MATERIALIZED (
    SELECT
        id,
        total_minor,
        currency,
        expires_at
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
FROM pending
WHERE payments.order_id = pending.id AND payments.status = 'INITIATED'
RETURNING
    payments.id AS payment_id,
    payments.status AS payment_status,
    pending.total_minor,
    pending.currency,
    pending.expires_at;
