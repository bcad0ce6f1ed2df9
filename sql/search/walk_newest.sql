-- search/walk_newest: a page of a search that many products match: reads products, newest first, until it is full.
-- It reads at most 5,000 search rows. If it stops there, it returns the last one, without an item if that does not fit.
--
-- callers  service.shop.search._Run._step
-- param    $1 query text null
-- param    $2 min_price bigint
-- param    $3 max_price bigint
-- param    $4 available boolean null
-- param    $5 before_id bigint
-- param    $6 limit bigint
-- returns  many by product_id descending; none = no further product matches
-- locks    none
-- waits    none
-- index    product_search_pkey, products_pkey
-- rows     0..101 by LIMIT $6, usually 21
-- guards   none
WITH page AS (
    SELECT
        product_id,
        fits,
        0::bigint AS rank,
        '' AS name_key,
        -product_id AS place,
        position = 5000 AS stopped
    FROM (
        SELECT
            product_id,
            price_minor BETWEEN $2 AND $3
            AND (
                $4::boolean IS NULL
                OR $4 = (SELECT products.stock > 0 FROM products WHERE products.id = longest_walk.product_id)
            )
            AND (words @@ $1::text::tsquery) IS NOT FALSE AS fits,
            row_number() OVER (ORDER BY product_id DESC) AS position
        FROM (
            SELECT
                product_id,
                price_minor,
                words
            FROM product_search
            WHERE product_id < $5
            ORDER BY product_id DESC
            LIMIT 5000
        ) AS longest_walk
    ) AS walked
    WHERE fits OR position = 5000
    ORDER BY product_id DESC
    LIMIT 101
)

SELECT
    rank,
    name_key,
    place,
    stopped,
    CASE
        WHEN fits THEN (
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
        )
    END AS item
FROM page
ORDER BY product_id DESC
LIMIT $6;
