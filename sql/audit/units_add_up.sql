-- audit/units_add_up: units received = units in stock + held by pending orders + sold.
-- Order by order: one that is live took exactly its lines and gave nothing back; any other gave back all it took.
--
-- callers  service.shop.audit.audit
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads the tables whole
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH out AS (
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

due AS (
    SELECT
        order_items.order_id,
        order_items.product_id,
        CASE
            WHEN orders.status = 'CANCELLED' THEN 0
            WHEN orders.status = 'FULFILLED' AND payments.status = 'REFUNDED' AND EXISTS (
                SELECT FROM refunds
                WHERE refunds.order_id = orders.id AND refunds.restock AND refunds.status = 'SUCCEEDED'
            ) THEN 0
            -- They came back with the last refund, and then it or one before it failed after all.
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
    'order ' || coalesce(due.order_id, out.order_id)
    || ' product ' || coalesce(due.product_id, out.product_id) AS subject,
    'has ' || coalesce(out.units, 0) || ' units out, should have ' || coalesce(due.units, 0) AS detail
FROM due
FULL JOIN out ON due.order_id = out.order_id AND due.product_id = out.product_id
WHERE coalesce(out.units, 0) <> coalesce(due.units, 0)
ORDER BY subject
LIMIT 1000;
