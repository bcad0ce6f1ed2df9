-- catalog/list_category_products: a keyset page of what is for sale in one category.
-- A range of products_by_category rather than `category_id = $1`: for that a plan may walk all that is for sale, past
-- a million others when the category has little.
--
-- caller   service.shop.catalog._read_page
-- param    $1 category_id bigint
-- param    $2 after_id bigint
-- param    $3 limit bigint
-- returns  many by category_id, active, id; none = nothing is for sale in it after $2
-- locks    none
-- waits    none
-- index    products_by_category
-- rows     0..101 by LIMIT $3, usually 21
-- guards   none
SELECT
    id,
    name,
    category_id,
    price_minor,
    currency,
    stock > 0 AS available
FROM products
WHERE (category_id, active, id) > ($1, true, $2) AND category_id <= $1
ORDER BY
    category_id,
    active,
    id
LIMIT $3;
