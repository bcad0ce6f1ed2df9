-- audit_state/sum_ledger: the next 5000 movements of a range of products, added up for each product.
-- The range begins after one movement of a product, because a product may have more movements than that.
--
-- callers  service.shop.audit._set_balances
-- param    $1 after_product bigint
-- param    $2 after_id bigint
-- param    $3 to_product bigint
-- param    $4 to_id bigint
-- returns  many by product_id; none = there is no other movement
-- locks    none
-- waits    none
-- index    stock_movements_pkey
-- rows     0..n, usually 200
-- guards   none
SELECT
    product_id,
    sum(delta)::bigint AS units,
    max(id) AS last_id,
    count(*) AS movements
FROM (
    SELECT
        product_id,
        id,
        delta
    FROM stock_movements
    WHERE (product_id, id) > ($1, $2) AND product_id <= $3 AND id <= $4
    ORDER BY
        product_id,
        id
    FETCH FIRST 5000 ROWS ONLY
) AS movement
GROUP BY product_id
ORDER BY product_id;
