-- orders/list_refund_items: the lines that an order's refunds name.
--
-- callers  service.shop.orders.view, service.shop.refunds._report_changes, service.shop.refunds._failed_lines
-- param    $1 order_id uuid
-- returns  many by refund_id, product_id; none = no refund by line
-- locks    none
-- waits    none
-- index    refunds_by_order, refund_items_pkey
-- rows     0..n, usually 0
-- guards   none
SELECT
    refund_items.refund_id,
    refund_items.product_id,
    refund_items.quantity,
    refund_items.restock
FROM refunds
INNER JOIN refund_items ON refunds.id = refund_items.refund_id
WHERE refunds.order_id = $1
ORDER BY
    refund_items.refund_id,
    refund_items.product_id;
