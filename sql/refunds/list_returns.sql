-- refunds/list_returns: the units that an order's succeeded refunds return and that are not back, each unit once.
-- A refund may fail after its units are back, and be made again: what is back already counts first.
-- A refund by amount may return the rest of a fulfilled order, without the units that other refunds do not restock. One
-- that was decided before the order was fulfilled was to cancel it: its units return only with the whole payment.
--
-- callers  service.shop.refunds.return_units
-- param    $1 order_id uuid
-- param    $2 hold_number integer
-- returns  many by refund_id, product_id; none = nothing is to be returned
-- locks    none
-- waits    none
-- index    refunds_by_order, refund_items_pkey, orders_pkey, payments_one_per_order, order_items_pkey,
--          stock_movements_once
-- rows     0..n, usually 0
-- guards   none
WITH refund AS MATERIALIZED (
    SELECT
        id,
        restock,
        status,
        created_at
    FROM refunds
    WHERE order_id = $1 AND status <> 'FAILED'
),

-- The units that each refund may return, and those that it names and does not restock.
item AS MATERIALIZED (
    SELECT
        refund.id AS refund_id,
        refund_items.product_id,
        CASE
            WHEN refund_items.restock AND refund.status = 'SUCCEEDED' THEN refund_items.quantity
            ELSE 0
        END AS quantity,
        CASE WHEN refund_items.restock THEN 0 ELSE refund_items.quantity END AS remaining
    FROM refund
    INNER JOIN refund_items ON refund.id = refund_items.refund_id
    UNION ALL
    SELECT
        refund.id AS refund_id,
        order_items.product_id,
        order_items.quantity,
        0 AS remaining
    FROM refund, orders
    INNER JOIN payments ON orders.id = payments.order_id
    INNER JOIN order_items ON orders.id = order_items.order_id
    WHERE
        refund.restock
        AND refund.status = 'SUCCEEDED'
        AND orders.id = $1
        AND (refund.created_at >= orders.fulfilled_at OR payments.status = 'REFUNDED')
),

returned AS MATERIALIZED (
    SELECT
        product_id,
        reason,
        delta
    FROM stock_movements
    WHERE order_id = $1 AND hold = $2 AND delta > 0
),

due AS (
    SELECT
        order_items.product_id,
        least(sum(item.quantity), order_items.quantity - sum(item.remaining)) - coalesce((
            SELECT sum(returned.delta)
            FROM returned
            WHERE returned.product_id = order_items.product_id
        ), 0) AS quantity
    FROM order_items
    INNER JOIN item ON order_items.product_id = item.product_id
    WHERE order_items.order_id = $1
    GROUP BY
        order_items.product_id,
        order_items.quantity
),

-- A refund returns units of a product once. Several new ones share what is due.
new_item AS (
    SELECT
        refund_id,
        product_id,
        quantity,
        sum(quantity) OVER (PARTITION BY product_id ORDER BY refund_id) - quantity AS quantity_before
    FROM item
    WHERE
        quantity > 0
        AND NOT EXISTS (
            SELECT
            FROM returned
            WHERE returned.product_id = item.product_id AND returned.reason = 'refund:' || item.refund_id
        )
)

SELECT
    new_item.refund_id,
    new_item.product_id,
    least(new_item.quantity, due.quantity - new_item.quantity_before)::integer AS quantity
FROM new_item
INNER JOIN due ON new_item.product_id = due.product_id
WHERE due.quantity > new_item.quantity_before
ORDER BY
    new_item.refund_id,
    new_item.product_id;
