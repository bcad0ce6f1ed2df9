-- catalog/list_staff_products: the products with these ids, with what staff may see in a listing.
--
-- callers  service.shop.catalog.list_staff_products
-- param    $1 product_ids bigint[]
-- returns  many by id; none = no such products
-- locks    none
-- waits    none
-- index    products_pkey
-- rows     0..100 by LIMIT, usually 20
-- guards   none
SELECT
    id,
    name,
    category_id,
    price_minor,
    currency,
    sku,
    image_url,
    stock,
    active,
    stock > 0 AS available
FROM products
WHERE id = any($1)
ORDER BY id
LIMIT 100;
