-- audit/stock_matches_ledger: every product's stock is the sum of its ledger.
--
-- caller   service.shop.audit.audit
-- returns  many, by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads both tables whole
-- rows     0
-- guards   none
SELECT
    'product ' || products.id AS subject,
    'stock ' || products.stock || ', ledger ' || coalesce(sum(stock_movements.delta), 0) AS detail
FROM products
LEFT JOIN stock_movements ON products.id = stock_movements.product_id
GROUP BY products.id
HAVING products.stock <> coalesce(sum(stock_movements.delta), 0)
ORDER BY products.id
LIMIT 1000;
