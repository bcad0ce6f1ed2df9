-- catalog/find_staff_products: the ids of products for staff: active or not, of a category, with few in stock.
-- Stock is in no index, because each sale would then write to it too. So at most 10,000 products are read for a page.
-- If that is why fewer than $5 fit, walked_to is where the next page goes on.
-- The parameters leave one of the sources, or the last two.
--
-- callers  service.shop.catalog.list_staff_products
-- param    $1 category_id bigint null
-- param    $2 active boolean null
-- param    $3 stock_at_most integer null
-- param    $4 after_id bigint
-- param    $5 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    products_pkey, products_active, products_inactive, products_by_category
-- rows     1
-- guards   none
WITH walk AS MATERIALIZED (
    SELECT
        id,
        stock
    FROM (
        (
            SELECT
                id,
                stock
            FROM products
            WHERE $1::bigint IS NULL AND $2::boolean IS NULL AND id > $4
            ORDER BY id
            LIMIT 10000
        )
        UNION ALL
        (
            SELECT
                id,
                stock
            FROM products
            WHERE $1 IS NULL AND $2 AND active AND id > $4
            ORDER BY id
            LIMIT 10000
        )
        UNION ALL
        (
            SELECT
                id,
                stock
            FROM products
            WHERE $1 IS NULL AND NOT $2 AND NOT active AND id > $4
            ORDER BY id
            LIMIT 10000
        )
        UNION ALL
        (
            SELECT
                id,
                stock
            FROM products
            WHERE coalesce($2, true) AND (category_id, active, id) > ($1, true, $4) AND category_id <= $1
            ORDER BY
                category_id,
                active,
                id
            LIMIT 10000
        )
        UNION ALL
        (
            SELECT
                id,
                stock
            FROM products
            WHERE
                NOT coalesce($2, false)
                AND (category_id, active, id) > ($1, false, $4)
                AND (category_id, active) <= ($1, false)
            ORDER BY
                category_id,
                active,
                id
            LIMIT 10000
        )
    ) AS source
    ORDER BY id
    LIMIT 10000
),

match AS (
    SELECT id
    FROM walk
    WHERE $3::integer IS NULL OR stock <= $3
    ORDER BY id
    LIMIT $5
)

SELECT
    coalesce(array_agg(id ORDER BY id), '{}') AS ids,
    CASE WHEN count(*) < $5 THEN (SELECT max(walk.id) FROM walk HAVING count(*) = 10000) END AS walked_to
FROM match;
