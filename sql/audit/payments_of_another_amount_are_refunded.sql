-- audit/payments_of_another_amount_are_refunded: a payment that is not what its order asked for is given back, whole.
-- A row stays until Stripe shows the refund as succeeded.
--
-- caller   service.shop.audit.audit
-- returns  many by order_id; none = all is well
-- locks    none
-- waits    none
-- index    payments_captured_otherwise
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    'order ' || order_id AS subject,
    'payment ' || stripe_payment_intent_id || ' of ' || captured_minor || ' ' || captured_currency || ' for '
    || amount_minor || ' ' || currency || ', refunded ' || refunded_minor AS detail
FROM payments
WHERE captured_minor IS NOT NULL AND status <> 'REFUNDED'
ORDER BY order_id
LIMIT 1000;
