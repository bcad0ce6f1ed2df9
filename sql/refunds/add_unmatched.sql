-- refunds/add_unmatched: record a payment that matches no order, until it is refunded in full.
--
-- callers  service.shop.refunds.add_unmatched
-- param    $1 stripe_payment_intent_id text
-- param    $2 order_id uuid
-- param    $3 amount_minor bigint
-- param    $4 currency text
-- returns  none
-- locks    orders KEY SHARE; new unmatched_payments; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    unmatched_payments_pkey
-- rows     0..1
-- guards   none
INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency)
VALUES ($1, $2, $3, $4)
ON CONFLICT (stripe_payment_intent_id) DO NOTHING;
