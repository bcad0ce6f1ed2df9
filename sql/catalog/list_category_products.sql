-- catalog/list_category_products: a keyset page of the active products of one category.
-- A range of products_by_category instead of `category_id = $1`. With equality a plan may walk products_active instead,
-- past a million other products if the category has few. catalog/list_products explains the inner LIMIT.
--
-- callers  service.shop.catalog._read_page
-- param    $1 category_id bigint
-- param    $2 after_id bigint
-- param    $3 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    products_by_category
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
            image_url,
            active
        FROM products
        WHERE (category_id, active, id) > ($1, true, $2) AND category_id <= $1
        ORDER BY
            category_id,
            active,
            id
        LIMIT 100
    ) AS longest_page
    ORDER BY
        category_id,
        active,
        id
    LIMIT $3
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
            WHEN
                size = $3
                -- The first row instead of EXISTS, for which a plan may read the whole table.
                AND (
                    SELECT id
                    FROM products
                    WHERE (category_id, active, id) > ($1, true, last_id) AND category_id <= $1
                    ORDER BY
                        category_id,
                        active,
                        id
                    LIMIT 1
                ) IS NOT NULL
                THEN last_id
        END
    )::text AS page
FROM page;
