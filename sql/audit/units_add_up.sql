-- audit/units_add_up: units received = units in stock + units on hold + units sold, for these orders.
-- For each order line: the units taken and not returned are its quantity, or 0 once it is cancelled or restocked.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject, detail; none = all is well
-- locks    none
-- waits    none
-- index    orders_pkey, payments_one_per_order, refunds_by_order, stock_movements_once, order_items_pkey
-- rows     0..n, usually 0
-- guards   none
WITH moved AS (
    SELECT
        order_id,
        product_id,
        -delta AS taken,
        0 AS ordered
    FROM stock_movements
    WHERE order_id = any($1)
    UNION ALL
    SELECT
        order_id,
        product_id,
        0 AS taken,
        quantity AS ordered
    FROM order_items
    WHERE order_id = any($1)
),

line AS (
    SELECT
        order_id,
        product_id,
        sum(taken) AS taken,
        sum(ordered) AS ordered
    FROM moved
    GROUP BY
        order_id,
        product_id
),

expected AS (
    SELECT
        line.order_id,
        line.product_id,
        line.taken,
        CASE
            WHEN orders.status = 'CANCELLED' THEN 0
            WHEN orders.status <> 'FULFILLED' THEN line.ordered
            WHEN payments.status = 'REFUNDED' AND EXISTS (
                SELECT FROM refunds
                WHERE refunds.order_id = orders.id AND refunds.restock AND refunds.status = 'SUCCEEDED'
            ) THEN 0
            -- The last refund released the units, and then it or an earlier one failed.
            WHEN EXISTS (
                SELECT FROM refunds
                WHERE refunds.order_id = orders.id AND refunds.restock AND refunds.status IN ('SUCCEEDED', 'FAILED')
            ) AND EXISTS (
                SELECT FROM stock_movements
                WHERE
                    stock_movements.order_id = orders.id
                    AND stock_movements.reason = 'release'
                    AND stock_movements.hold = orders.hold
            ) THEN 0
            ELSE line.ordered
        END AS units
    FROM line
    INNER JOIN orders ON line.order_id = orders.id
    INNER JOIN payments ON orders.id = payments.order_id
)

SELECT
    'order ' || order_id AS subject,
    'product ' || product_id || ' has taken ' || taken || ' units, should have taken ' || units AS detail
FROM expected
WHERE taken <> units
ORDER BY
    subject,
    detail;
