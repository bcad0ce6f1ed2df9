-- catalog/list_category_products: a keyset page of what is for sale in one category.
-- A range of products_by_category rather than `category_id = $1`: for that a plan may walk all that is for sale, past
-- a million others when the category has little. The inner LIMIT as in catalog/list_products.
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
        stock > 0 AS available
    FROM (
        SELECT
            id,
            name,
            category_id,
            price_minor,
            currency,
            stock,
            active
        FROM products
        WHERE (category_id, active, id) > ($1, true, $2) AND category_id <= $1
        ORDER BY
            category_id,
            active,
            id
        LIMIT 100
    ) AS longest
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
                -- Its first row and not EXISTS, for which a plan may read the table.
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
