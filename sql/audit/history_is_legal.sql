-- audit/history_is_legal: every order's history leads step by step from nothing to the order's status.
-- The constraint order_events_path_legal keeps each step legal. The unique index stock_movements_once keeps stock
-- from being released twice.
--
-- callers  service.shop.audit.audit
-- returns  many by number; none = all is well
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH step AS (
    SELECT
        order_id,
        from_status,
        to_status,
        lag(to_status) OVER history AS previous_status,
        lead(id) OVER history IS NULL AS is_last
    FROM order_events
    WINDOW history AS (PARTITION BY order_id ORDER BY id)
)

SELECT
    'order ' || orders.id AS subject,
    coalesce(step.from_status, 'nothing') || ' -> ' || coalesce(step.to_status, 'nothing')
    || ' after ' || coalesce(step.previous_status, 'nothing') || ', now ' || orders.status AS detail
FROM orders
LEFT JOIN step ON orders.id = step.order_id
WHERE
    step.order_id IS NULL
    OR step.from_status IS DISTINCT FROM step.previous_status
    OR (step.is_last AND step.to_status <> orders.status)
ORDER BY orders.number
LIMIT 1000;
