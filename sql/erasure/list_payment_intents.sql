-- erasure/list_payment_intents: the payments of these orders at Stripe, to find events that name nothing else.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- returns  many in no order; none = nothing was paid
-- locks    none
-- waits    none
-- index    payments_one_per_order, refunds_by_order, unmatched_payments_by_order
-- rows     0..n, usually 1
-- guards   none
SELECT stripe_payment_intent_id
FROM payments
WHERE order_id = any($1) AND stripe_payment_intent_id IS NOT NULL
UNION
SELECT stripe_payment_intent_id
FROM refunds
WHERE order_id = any($1)
UNION
SELECT stripe_payment_intent_id
FROM unmatched_payments
WHERE order_id = any($1);
