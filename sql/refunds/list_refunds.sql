-- refunds/list_refunds: an order's refunds, oldest first.
-- due: a requested refund may be sent to Stripe, because its time has come or the sweep has claimed it.
--
-- callers  service.shop.refunds.request, service.shop.refunds.settle, service.shop.refunds._record,
--          service.shop.refunds._report_changes, service.shop.refunds._balance
-- param    $1 order_id uuid
-- returns  many by created_at, id; none = no refund
-- locks    none
-- waits    none
-- index    refunds_by_order
-- rows     0..n, usually 0
-- guards   none
SELECT
    id,
    stripe_payment_intent_id,
    amount_minor,
    cause,
    restock,
    status,
    stripe_refund_id,
    failure_reason,
    coalesce(attempts > 0 OR next_attempt_at <= now(), false) AS due
FROM refunds
WHERE order_id = $1
ORDER BY created_at, id;
