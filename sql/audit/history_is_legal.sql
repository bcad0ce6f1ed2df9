-- audit/history_is_legal: each of these orders has a history that leads step by step from nothing to its status.
-- The constraint order_events_path_legal keeps each step legal. The unique index stock_movements_once keeps stock
-- from being released twice.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject, detail; none = all is well
-- locks    none
-- waits    none
-- index    orders_pkey, order_events_pkey
-- rows     0..n, usually 0
-- guards   none
WITH step AS (
    SELECT
        order_id,
        from_status,
        to_status,
        lag(to_status) OVER history AS previous_status,
        lead(id) OVER history IS NULL AS is_last
    FROM order_events
    WHERE order_id = any($1)
    WINDOW history AS (PARTITION BY order_id ORDER BY id)
)

SELECT
    'order ' || orders.id AS subject,
    coalesce(step.from_status, 'nothing') || ' -> ' || step.to_status
    || ' after ' || coalesce(step.previous_status, 'nothing') || ', now ' || orders.status AS detail
FROM step
INNER JOIN orders ON step.order_id = orders.id
WHERE
    step.from_status IS DISTINCT FROM step.previous_status
    OR (step.is_last AND step.to_status <> orders.status)
UNION ALL
SELECT
    'order ' || id AS subject,
    'no history, now ' || status AS detail
FROM orders
WHERE id = any($1) AND NOT EXISTS (SELECT FROM order_events WHERE order_events.order_id = orders.id)
ORDER BY
    subject,
    detail;
