-- catalog/list_products: a keyset page of what is for sale.
-- The stock itself stays out: a cached page would go stale with every sale. Written as JSON here, it is passed on as it
-- comes: rows that are made objects and then JSON cost a page from the tables a sixth more.
-- The inner LIMIT is for the planner, which takes a number that it does not know for a tenth of the table, and would
-- plan each page anew; no more rows than $2 are read.
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
        stock > 0 AS available
    FROM (
        SELECT
            id,
            name,
            category_id,
            price_minor,
            currency,
            stock
        FROM products
        WHERE active AND id > $1
        ORDER BY id
        LIMIT 100
    ) AS longest
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
            -- Its first row and not EXISTS, for which a plan may read the table.
            WHEN size = $2 AND (SELECT id FROM products WHERE active AND id > last_id ORDER BY id LIMIT 1) IS NOT NULL
                THEN last_id
        END
    )::text AS page
FROM page;
