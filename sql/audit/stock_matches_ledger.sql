-- audit/stock_matches_ledger: the stock of each of these products is the sum of its ledger.
-- The sum is the balance, which the audit has added up before, and the movements since its position.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 product_ids bigint[]
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    products_pkey, audit_balances_pkey, audit_positions_pkey, stock_movements_pkey
-- rows     0..n, usually 0
-- guards   none
WITH ledger AS (
    SELECT
        products.id,
        products.stock,
        coalesce(audit_balances.units, 0) + (
            SELECT coalesce(sum(stock_movements.delta), 0)
            FROM stock_movements
            WHERE
                stock_movements.product_id = products.id
                AND stock_movements.id > coalesce((
                    SELECT audit_positions.position
                    FROM audit_positions
                    WHERE audit_positions.rule = 'audit/stock_matches_ledger' AND audit_positions.source = 'balances'
                ), 0)
        ) AS units
    FROM products
    LEFT JOIN audit_balances ON products.id = audit_balances.product_id
    WHERE products.id = any($1)
)

SELECT
    'product ' || id AS subject,
    'stock ' || stock || ', ledger ' || units AS detail
FROM ledger
WHERE stock <> units
ORDER BY subject;
