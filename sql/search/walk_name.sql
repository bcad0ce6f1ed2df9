-- search/walk_name: a page in the order of names of a search that many products match.
-- It reads at most 5,000 search rows. If it stops there, it returns the last one, without an item if that does not fit.
--
-- callers  service.shop.search._Run._step
-- param    $1 query text null
-- param    $2 min_price bigint
-- param    $3 max_price bigint
-- param    $4 available boolean null
-- param    $5 after_name text
-- param    $6 after_id bigint
-- param    $7 limit bigint
-- returns  many by name_key, product_id; none = no further product matches
-- locks    none
-- waits    none
-- index    product_search_by_name, products_pkey
-- rows     0..101 by LIMIT $7, usually 21
-- guards   none
WITH page AS (
    SELECT
        name_key,
        product_id,
        fits,
        0::bigint AS rank,
        product_id AS place,
        position = 5000 AS stopped
    FROM (
        SELECT
            name_key,
            product_id,
            price_minor BETWEEN $2 AND $3
            AND (
                $4::boolean IS NULL
                OR $4 = (SELECT products.stock > 0 FROM products WHERE products.id = longest_walk.product_id)
            )
            AND (words @@ $1::text::tsquery) IS NOT FALSE AS fits,
            row_number() OVER (ORDER BY name_key, product_id) AS position
        FROM (
            SELECT
                name_key,
                product_id,
                price_minor,
                words
            FROM product_search
            WHERE (name_key, product_id) > ($5::text COLLATE "C", $6)
            ORDER BY name_key, product_id
            LIMIT 5000
        ) AS longest_walk
    ) AS walked
    WHERE fits OR position = 5000
    ORDER BY name_key, product_id
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
ORDER BY name_key, product_id
LIMIT $7;
