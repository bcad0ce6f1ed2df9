-- search/find_stale: which of the next thousand products have a search row that is missing, wrong, or one too many.
--
-- callers  service.shop.search.index_stale
-- param    $1 after_id bigint
-- param    $2 language text
-- returns  one; a null last_id = there are no more products
-- locks    none
-- waits    none
-- index    products_pkey, product_search_pkey
-- rows     1
-- guards   none
SELECT
    max(product.id) AS last_id,
    coalesce(
        array_agg(product.id ORDER BY product.id) FILTER (
            WHERE
            product.active <> (product_search.product_id IS NOT NULL)
            OR product_search.version <> product.version
            OR product_search.language <> $2
        ),
        '{}'
    ) AS product_ids
FROM (
    SELECT
        id,
        version,
        active
    FROM products
    WHERE id > $1
    ORDER BY id
    LIMIT 1000
) AS product
LEFT JOIN product_search ON product.id = product_search.product_id;
