-- refunds/list_unmatched: the payments that name this order and do not match it.
--
-- callers  service.shop.refunds.settle, service.shop.refunds._decide_owed
-- param    $1 order_id uuid
-- returns  many by created_at, stripe_payment_intent_id; none = no such payment
-- locks    none
-- waits    none
-- index    unmatched_payments_by_order
-- rows     0..n, usually 0
-- guards   none
SELECT
    stripe_payment_intent_id,
    amount_minor
FROM unmatched_payments
WHERE order_id = $1
ORDER BY created_at, stripe_payment_intent_id;
