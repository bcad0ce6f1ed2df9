-- audit/unmatched_payments_are_refunded: every payment that matches no order is refunded in full.
-- A payment is listed until Stripe shows its refunds as succeeded.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- returns  many by stripe_payment_intent_id; none = all is well
-- locks    none
-- waits    none
-- index    unmatched_payments_due
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    'order ' || order_id AS subject,
    'payment ' || stripe_payment_intent_id || ' of ' || amount_minor || ' ' || currency || ', since '
    || created_at AS detail
FROM unmatched_payments
WHERE next_attempt_at IS NOT NULL
ORDER BY stripe_payment_intent_id
LIMIT 1000;
