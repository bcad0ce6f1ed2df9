-- audit/units_add_up: units received = units in stock + units on hold + units sold.
-- For each order line: the units taken and not returned are its quantity, or 0 once it is cancelled or restocked.
--
-- callers  service.shop.audit.audit
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH actual AS (
    SELECT
        order_id,
        product_id,
        -sum(delta) AS units
    FROM stock_movements
    WHERE order_id IS NOT NULL
    GROUP BY
        order_id,
        product_id
),

expected AS (
    SELECT
        order_items.order_id,
        order_items.product_id,
        CASE
            WHEN orders.status = 'CANCELLED' THEN 0
            WHEN orders.status = 'FULFILLED' AND payments.status = 'REFUNDED' AND EXISTS (
                SELECT FROM refunds
                WHERE refunds.order_id = orders.id AND refunds.restock AND refunds.status = 'SUCCEEDED'
            ) THEN 0
            -- The last refund released the units, and then it or an earlier one failed.
            WHEN orders.status = 'FULFILLED' AND EXISTS (
                SELECT FROM refunds
                WHERE refunds.order_id = orders.id AND refunds.restock AND refunds.status IN ('SUCCEEDED', 'FAILED')
            ) AND EXISTS (
                SELECT FROM stock_movements
                WHERE
                    stock_movements.order_id = orders.id
                    AND stock_movements.reason = 'release'
                    AND stock_movements.hold = orders.hold
            ) THEN 0
            ELSE order_items.quantity
        END AS units
    FROM order_items
    INNER JOIN orders ON order_items.order_id = orders.id
    INNER JOIN payments ON orders.id = payments.order_id
)

SELECT
    'order ' || coalesce(expected.order_id, actual.order_id)
    || ' product ' || coalesce(expected.product_id, actual.product_id) AS subject,
    'has taken ' || coalesce(actual.units, 0) || ' units, should have taken ' || coalesce(expected.units, 0) AS detail
FROM expected
FULL JOIN actual ON expected.order_id = actual.order_id AND expected.product_id = actual.product_id
WHERE coalesce(actual.units, 0) <> coalesce(expected.units, 0)
ORDER BY subject
LIMIT 1000;
