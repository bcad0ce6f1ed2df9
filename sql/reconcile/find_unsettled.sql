-- reconcile/find_unsettled: which of these orders have no captured payment.
--
-- callers  service.shop.reconcile._settle
-- param    $1 order_ids uuid[]
-- returns  many in no order; none = all are captured or not ours
-- locks    none
-- waits    none
-- index    payments_one_per_order
-- rows     0..100 by service.shop.reconcile.PAGE
-- guards   none
SELECT order_id
FROM payments
WHERE order_id = any($1) AND status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED');
