-- catalog/list_category_products: a keyset page of what is for sale in one category.
--
-- caller   service.shop.catalog._read_page
-- param    $1 category_id bigint
-- param    $2 after_id bigint
-- param    $3 limit bigint
-- returns  many, by id; none = nothing is for sale in it after $2
-- locks    none
-- waits    none
-- index    products_by_category
-- rows     0..101, usually 21
-- guards   none
SELECT
    id,
    name,
    category_id,
    price_minor,
    currency,
    stock > 0 AS available
FROM products
WHERE category_id = $1 AND active AND id > $2
ORDER BY id
LIMIT $3;
