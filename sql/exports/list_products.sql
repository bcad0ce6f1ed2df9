-- exports/list_products: a keyset page of all products, as a file of products has them.
-- catalog/list_products explains the constant LIMIT.
--
-- callers  service.shop.exports.export_products
-- param    $1 after_id bigint
-- returns  many by id; none = there are no more products
-- locks    none
-- waits    none
-- index    products_pkey, categories_pkey
-- rows     0..1000 by LIMIT
-- guards   none
SELECT
    products.id,
    products.sku,
    products.name,
    products.description,
    products.price_minor,
    products.currency,
    products.active,
    products.max_per_order,
    products.image_url,
    products.stock,
    (SELECT categories.slug FROM categories WHERE categories.id = products.category_id) AS category
FROM products
WHERE products.id > $1
ORDER BY products.id
LIMIT 1000;
