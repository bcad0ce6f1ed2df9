-- audit/refund_lines_add_up: the lines that refunds of these orders name add up.
-- Refunds that have not failed name at most the ordered units of a product. A refund's amount is the sum of its lines.
-- What it returned to the stock is at most what it should return.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject, detail; none = all is well
-- locks    none
-- waits    none
-- index    refunds_by_order, refund_items_pkey, order_items_pkey, stock_movements_once
-- rows     0..n, usually 0
-- guards   none
WITH refund AS MATERIALIZED (
    SELECT
        id,
        order_id,
        amount_minor,
        status,
        restock
    FROM refunds
    WHERE order_id = any($1)
),

item AS MATERIALIZED (
    SELECT
        refund.id AS refund_id,
        refund.order_id,
        refund.amount_minor,
        refund.status,
        refund_items.product_id,
        refund_items.quantity,
        refund_items.restock
    FROM refund
    INNER JOIN refund_items ON refund.id = refund_items.refund_id
),

line AS MATERIALIZED (
    SELECT
        order_id,
        product_id,
        quantity,
        unit_price_minor
    FROM order_items
    WHERE order_id = any($1)
),

returned AS (
    SELECT
        order_id,
        product_id,
        delta,
        substring(reason FROM 8)::uuid AS refund_id
    FROM stock_movements
    WHERE order_id = any($1) AND left(reason, 7) = 'refund:'
)

SELECT
    'order ' || item.order_id AS subject,
    'product ' || item.product_id || ': refunds of ' || sum(item.quantity) || ' units, ' || coalesce(line.quantity, 0)
    || ' ordered' AS detail
FROM item
LEFT JOIN line ON item.order_id = line.order_id AND item.product_id = line.product_id
WHERE item.status <> 'FAILED'
GROUP BY
    item.order_id,
    item.product_id,
    line.quantity
HAVING sum(item.quantity) > coalesce(line.quantity, 0)
UNION ALL
SELECT
    'order ' || item.order_id AS subject,
    'refund ' || item.refund_id || ' of ' || item.amount_minor || ', its lines '
    || sum(item.quantity * coalesce(line.unit_price_minor, 0)) AS detail
FROM item
LEFT JOIN line ON item.order_id = line.order_id AND item.product_id = line.product_id
GROUP BY
    item.order_id,
    item.refund_id,
    item.amount_minor
HAVING sum(item.quantity * coalesce(line.unit_price_minor, 0)) <> item.amount_minor
UNION ALL
SELECT
    'order ' || returned.order_id AS subject,
    'refund ' || returned.refund_id || ' has returned ' || returned.delta || ' units of product '
    || returned.product_id AS detail
FROM returned
LEFT JOIN refund ON returned.refund_id = refund.id AND returned.order_id = refund.order_id
LEFT JOIN item ON returned.refund_id = item.refund_id AND returned.product_id = item.product_id AND item.restock
LEFT JOIN line ON returned.order_id = line.order_id AND returned.product_id = line.product_id
WHERE
    returned.delta > coalesce(
        item.quantity,
        CASE WHEN refund.restock THEN line.quantity END,
        0
    )
ORDER BY
    subject,
    detail;
