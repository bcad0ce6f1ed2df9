-- refunds/find_order: the order that a payment intent paid.
--
-- callers  service.shop.refunds.find_order
-- param    $1 stripe_payment_intent_id text
-- returns  one or none; none = no order was paid by it
-- locks    none
-- waits    none
-- index    payments_payment_intent_once
-- rows     0..1
-- guards   none
SELECT order_id
FROM payments
WHERE stripe_payment_intent_id = $1;
