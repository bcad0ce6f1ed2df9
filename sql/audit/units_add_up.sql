-- audit/units_add_up: units received = units in stock + units on hold + units sold, for these orders.
-- For each order line: the units taken and not returned are its quantity, less those that succeeded refunds return, or
-- 0 once it is cancelled. A refund that failed may have returned its units before.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject, detail; none = all is well
-- locks    none
-- waits    none
-- index    orders_pkey, payments_one_per_order, refunds_by_order, refund_items_pkey, stock_movements_once,
--          order_items_pkey
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

-- The units that refunds of an order return, and those that they leave with the customer.
item AS (
    SELECT
        refunds.order_id,
        refund_items.product_id,
        sum(refund_items.quantity) FILTER (WHERE refund_items.restock AND refunds.status = 'SUCCEEDED') AS returned,
        -- A refund may fail after its units are back.
        sum(refund_items.quantity) FILTER (
            WHERE refund_items.restock AND refunds.status IN ('SUCCEEDED', 'FAILED')
        ) AS returned_once,
        sum(refund_items.quantity) FILTER (WHERE NOT refund_items.restock) AS remaining
    FROM refunds
    INNER JOIN refund_items ON refunds.id = refund_items.refund_id
    WHERE refunds.order_id = any($1)
    GROUP BY
        refunds.order_id,
        refund_items.product_id
),

-- Orders with a refund by amount that returns what is left. It returns nothing of a fulfilled order while all refunds
-- are older: such an order was not refunded whole.
whole AS (
    SELECT
        order_id,
        bool_or(restock AND status = 'SUCCEEDED') AS succeeded,
        max(created_at) AS newest_at
    FROM refunds
    WHERE order_id = any($1) AND status IN ('SUCCEEDED', 'FAILED')
    GROUP BY order_id
    HAVING bool_or(restock)
),

expected AS (
    SELECT
        line.order_id,
        line.product_id,
        line.taken,
        CASE
            WHEN orders.status = 'CANCELLED' THEN 0
            WHEN
                orders.status = 'FULFILLED'
                AND whole.order_id IS NOT NULL
                AND (whole.newest_at >= orders.fulfilled_at OR payments.status = 'REFUNDED')
                THEN 0
            ELSE greatest(line.ordered - coalesce(item.returned_once, 0), 0)
        END AS least_units,
        CASE
            WHEN orders.status = 'CANCELLED' THEN 0
            WHEN orders.status = 'FULFILLED' AND payments.status = 'REFUNDED' AND whole.succeeded
                THEN least(coalesce(item.remaining, 0), line.ordered - coalesce(item.returned, 0))
            ELSE line.ordered - coalesce(item.returned, 0)
        END AS most_units
    FROM line
    INNER JOIN orders ON line.order_id = orders.id
    INNER JOIN payments ON orders.id = payments.order_id
    LEFT JOIN item ON line.order_id = item.order_id AND line.product_id = item.product_id
    LEFT JOIN whole ON line.order_id = whole.order_id
)

SELECT
    'order ' || order_id AS subject,
    'product ' || product_id || ' has taken ' || taken || ' units, should have taken ' || least_units
    || CASE WHEN most_units > least_units THEN ' to ' || most_units ELSE '' END AS detail
FROM expected
WHERE taken NOT BETWEEN least_units AND most_units
ORDER BY
    subject,
    detail;
