-- audit/order_lines_add_up: each of these orders has lines, in its currency, and their sum is its total.
-- A line has no currency of its own: nobody but the owner may change the one of its product.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    orders_pkey, order_items_pkey, products_pkey
-- rows     0..n, usually 0
-- guards   none
WITH line AS (
    SELECT
        order_items.order_id,
        count(*) AS count,
        sum(order_items.quantity * order_items.unit_price_minor) AS total_minor,
        string_agg(DISTINCT products.currency, ' ') AS currencies
    FROM order_items
    INNER JOIN products ON order_items.product_id = products.id
    WHERE order_items.order_id = any($1)
    GROUP BY order_items.order_id
)

SELECT
    'order ' || orders.id AS subject,
    'total ' || orders.total_minor || ' ' || orders.currency || ', ' || coalesce(line.count, 0) || ' lines of '
    || coalesce(line.total_minor || ' ' || line.currencies, '0') AS detail
FROM orders
LEFT JOIN line ON orders.id = line.order_id
WHERE
    orders.id = any($1)
    AND (orders.total_minor = line.total_minor AND orders.currency = line.currencies) IS NOT TRUE
ORDER BY subject;
