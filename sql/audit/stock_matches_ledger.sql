-- audit/stock_matches_ledger: every product's stock is the sum of its ledger.
--
-- callers  service.shop.audit.audit
-- returns  many by id; none = all is well
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH ledger AS MATERIALIZED (
    SELECT
        product_id,
        sum(delta) AS units
    FROM stock_movements
    GROUP BY product_id
)

SELECT
    'product ' || products.id AS subject,
    'stock ' || products.stock || ', ledger ' || coalesce(ledger.units, 0) AS detail
FROM products
LEFT JOIN ledger ON products.id = ledger.product_id
WHERE products.stock <> coalesce(ledger.units, 0)
ORDER BY products.id
LIMIT 1000;
