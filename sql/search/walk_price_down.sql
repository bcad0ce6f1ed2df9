-- search/walk_price_down: a page in the order of prices, the highest first, of a search that many products match.
-- It reads at most 5,000 search rows. If it stops there, it returns the last one, without an item if that does not fit.
--
-- callers  service.shop.search._Run._step
-- param    $1 query text null
-- param    $2 currency text
-- param    $3 min_price bigint
-- param    $4 max_price bigint
-- param    $5 available boolean null
-- param    $6 before_price bigint
-- param    $7 before_id bigint
-- param    $8 limit bigint
-- returns  many by price_minor descending, product_id descending; none = no further product matches
-- locks    none
-- waits    none
-- index    product_search_by_price, products_pkey
-- rows     0..101 by LIMIT $8, usually 21
-- guards   none
WITH page AS (
    SELECT
        price_minor,
        product_id,
        fits,
        '' AS name_key,
        -price_minor AS rank,
        -product_id AS place,
        position = 5000 AS stopped
    FROM (
        SELECT
            price_minor,
            product_id,
            (
                $5::boolean IS NULL
                OR $5 = (SELECT products.stock > 0 FROM products WHERE products.id = longest_walk.product_id)
            )
            AND (words @@ $1::text::tsquery) IS NOT FALSE AS fits,
            row_number() OVER (ORDER BY price_minor DESC, product_id DESC) AS position
        FROM (
            SELECT
                price_minor,
                product_id,
                words
            FROM product_search
            WHERE currency = $2 AND price_minor BETWEEN $3 AND $4 AND (price_minor, product_id) < ($6, $7)
            ORDER BY price_minor DESC, product_id DESC
            LIMIT 5000
        ) AS longest_walk
    ) AS walked
    WHERE fits OR position = 5000
    ORDER BY price_minor DESC, product_id DESC
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
ORDER BY price_minor DESC, product_id DESC
LIMIT $8;
