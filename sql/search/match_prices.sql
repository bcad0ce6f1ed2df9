-- search/match_prices: a page of a search within prices that few products have: an index on prices finds them all.
-- By search/count_matches there are about 4,000 at most.
--
-- callers  service.shop.search._Run.match_prices
-- param    $1 currency text
-- param    $2 query text null
-- param    $3 name_query text null
-- param    $4 sort text
-- param    $5 min_price bigint
-- param    $6 max_price bigint
-- param    $7 available boolean null
-- param    $8 limit bigint
-- param    $9 after_rank bigint
-- param    $10 after_name text
-- param    $11 after_place bigint
-- returns  many by rank, name_key, place; none = no further product matches
-- locks    none
-- waits    none
-- index    product_search_by_price, products_pkey
-- rows     0..101 by LIMIT $8, usually 21
-- guards   none
WITH matching AS MATERIALIZED (
    SELECT
        product_id,
        CASE $4
            WHEN 'relevance' THEN CASE WHEN (words @@ $3::text::tsquery) IS TRUE THEN 0 ELSE 1 END
            WHEN 'price' THEN price_minor
            WHEN '-price' THEN -price_minor
            ELSE 0
        END AS rank,
        CASE WHEN $4 = 'name' THEN name_key ELSE '' END AS name_key,
        CASE WHEN $4 IN ('price', 'name') THEN product_id ELSE -product_id END AS place
    FROM product_search
    WHERE
        currency = $1
        AND price_minor BETWEEN $5 AND $6
        AND (words @@ $2::text::tsquery) IS NOT FALSE
),

page AS (
    SELECT
        product_id,
        rank,
        name_key,
        place
    FROM (
        SELECT
            product_id,
            rank,
            name_key,
            place
        FROM matching
        WHERE (rank, name_key, place) > ($9, $10::text COLLATE "C", $11)
        ORDER BY rank, name_key, place
    ) AS sorted
    WHERE
        $7::boolean IS NULL
        OR $7 = (SELECT products.stock > 0 FROM products WHERE products.id = sorted.product_id)
    ORDER BY rank, name_key, place
    LIMIT 101
)

SELECT
    rank,
    name_key,
    place,
    false AS stopped,
    (
        SELECT row_to_json(item)::text
        FROM (
            SELECT
                id,
                name,
                category_id,
                price_minor,
                currency,
                sku,
                image_url,
                stock > 0 AS available
            FROM products
            WHERE id = page.product_id
        ) AS item
    ) AS item
FROM page
ORDER BY rank, name_key, place
LIMIT $8;
