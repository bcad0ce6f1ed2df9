-- catalog/list_products: a keyset page of the active products.
-- Items have `available` instead of the stock, which would make a cached page stale at every sale.
-- PostgreSQL builds the JSON: building it from Python objects made a page a sixth slower.
-- The constant inner LIMIT allows a generic plan: for a parameter alone the planner assumes a tenth of the table and
-- plans every call anew. At most $2 rows are read.
--
-- callers  service.shop.catalog._read_page
-- param    $1 after_id bigint
-- param    $2 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    products_active
-- rows     1
-- guards   none
WITH item AS (
    SELECT
        id,
        name,
        category_id,
        price_minor,
        currency,
        sku,
        image_url,
        stock > 0 AS available
    FROM (
        SELECT
            id,
            name,
            category_id,
            price_minor,
            currency,
            stock,
            sku,
            image_url
        FROM products
        WHERE active AND id > $1
        ORDER BY id
        LIMIT 100
    ) AS longest_page
    ORDER BY id
    LIMIT $2
),

page AS (
    SELECT
        json_agg(item ORDER BY id) AS items,
        max(id) AS last_id,
        count(*) AS size
    FROM item
)

SELECT
    json_build_object(
        'items', coalesce(items, '[]'),
        'next_cursor', CASE
            -- The first row instead of EXISTS, for which a plan may read the whole table.
            WHEN size = $2 AND (SELECT id FROM products WHERE active AND id > last_id ORDER BY id LIMIT 1) IS NOT NULL
                THEN last_id
        END
    )::text AS page
FROM page;
