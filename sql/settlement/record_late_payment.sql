-- settlement/record_late_payment: record the captured payment of an order that stays cancelled.
-- captured_minor and captured_currency are null when they equal the order's total and currency.
--
-- callers  service.shop.settlement.apply_late_payment, service.shop.settlement._apply_unmatched
-- param    $1 order_id uuid
-- param    $2 stripe_session_id text
-- param    $3 stripe_payment_intent_id text
-- param    $4 captured_minor bigint null
-- param    $5 captured_currency text null
-- returns  one or none; none = it is captured already
-- locks    payments UPDATE; to commit
-- waits    for nothing: transitions/lock_order has locked the payment
-- index    payments_one_per_order
-- rows     0..1
-- guards   payments_payment_intent_once -> busy, never payments_refunded_within_amount -> order_not_refundable
UPDATE payments
SET
    status = 'REFUND_PENDING',
    stripe_session_id = $2,
    stripe_payment_intent_id = $3,
    captured_minor = $4,
    captured_currency = $5,
    checkout_url = NULL,
    updated_at = now()
WHERE order_id = $1 AND status IN ('FAILED', 'EXPIRED')
RETURNING order_id;
