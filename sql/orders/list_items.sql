-- orders/list_items: an order's lines, at the prices of its checkout.
--
-- callers  service.shop.orders.view
-- param    $1 order_id uuid
-- returns  many by product_id; none = no such order
-- locks    none
-- waits    none
-- index    order_items_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
SELECT
    product_id,
    name,
    quantity,
    unit_price_minor,
    quantity * unit_price_minor AS line_total_minor
FROM order_items
WHERE order_id = $1
ORDER BY product_id;
