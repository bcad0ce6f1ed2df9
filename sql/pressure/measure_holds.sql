-- pressure/measure_holds: find the products with more units in unpaid holds than in stock, and the share of both.
-- Of all workers one measures, at most once in $1 seconds; the others return the ratio that was measured last.
-- It reads the pending orders with their lines, however many other orders there are.
--
-- callers  service.shop.pressure.measure_holds
-- param    $1 seconds double precision
-- returns  one
-- locks    hold_pressure NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: a row locked elsewhere is skipped
-- index    hold_pressure_pkey, orders_by_status, order_items_pkey, products_pkey
-- rows     1
-- guards   none
WITH due AS MATERIALIZED (
    SELECT id
    FROM hold_pressure
    WHERE id AND measured_at <= now() - make_interval(secs => $1)
    FOR NO KEY UPDATE SKIP LOCKED
),

hold AS MATERIALIZED (
    SELECT
        order_items.product_id,
        sum(order_items.quantity) AS units
    FROM orders
    INNER JOIN order_items ON orders.id = order_items.order_id
    WHERE orders.status = 'PENDING_PAYMENT' AND EXISTS (SELECT FROM due)
    GROUP BY order_items.product_id
),

measured AS MATERIALIZED (
    SELECT
        coalesce(array_agg(hold.product_id) FILTER (WHERE hold.units > products.stock), '{}') AS product_ids,
        coalesce(sum(hold.units) / sum(hold.units + products.stock), 0) AS units_on_hold_ratio
    FROM hold
    INNER JOIN products ON hold.product_id = products.id
),

stored AS (
    UPDATE hold_pressure
    SET
        measured_at = now(),
        product_ids = measured.product_ids,
        units_on_hold_ratio = measured.units_on_hold_ratio
    FROM due, measured
    WHERE hold_pressure.id = due.id
    RETURNING hold_pressure.units_on_hold_ratio
)

SELECT
    coalesce(
        (SELECT units_on_hold_ratio FROM stored),
        (SELECT units_on_hold_ratio FROM hold_pressure WHERE id)
    ) AS units_on_hold_ratio;
