-- orders/list_refunds: an order's refunds as people see them, oldest first; $2 is the order's currency.
-- A payment that does not match its order is refunded in its own currency.
--
-- callers  service.shop.orders.view, service.shop.refunds._add_event
-- param    $1 order_id uuid
-- param    $2 order_currency text
-- returns  many by created_at, id; none = no refund
-- locks    none
-- waits    none
-- index    refunds_by_order, unmatched_payments_pkey
-- rows     0..n, usually 0
-- guards   none
SELECT
    refunds.id,
    refunds.amount_minor,
    refunds.status,
    refunds.created_at,
    refunds.failure_reason,
    refunds.reason,
    refunds.actor,
    coalesce(unmatched_payments.currency, $2) AS currency
FROM refunds
LEFT JOIN unmatched_payments ON refunds.stripe_payment_intent_id = unmatched_payments.stripe_payment_intent_id
WHERE refunds.order_id = $1
ORDER BY refunds.created_at, refunds.id;
