-- refunds/list_lines: an order's lines, with the units that no refund names yet; a failed refund does not count.
--
-- callers  service.shop.refunds._price
-- param    $1 order_id uuid
-- returns  many by product_id; none = no such order
-- locks    none
-- waits    none
-- index    order_items_pkey, refunds_by_order, refund_items_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
WITH refunded AS (
    SELECT
        refund_items.product_id,
        sum(refund_items.quantity)::integer AS quantity
    FROM refunds
    INNER JOIN refund_items ON refunds.id = refund_items.refund_id
    WHERE refunds.order_id = $1 AND refunds.status <> 'FAILED'
    GROUP BY refund_items.product_id
)

SELECT
    order_items.product_id,
    order_items.unit_price_minor,
    greatest(order_items.quantity - coalesce(refunded.quantity, 0), 0) AS quantity_left
FROM order_items
LEFT JOIN refunded ON order_items.product_id = refunded.product_id
WHERE order_items.order_id = $1
ORDER BY order_items.product_id;
