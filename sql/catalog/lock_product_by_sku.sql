-- catalog/lock_product_by_sku: lock the product with this sku, as catalog/lock_product does.
--
-- callers  service.shop.catalog.put_product
-- param    $1 sku text
-- returns  one or none; none = no product has this sku
-- locks    products NO KEY UPDATE; to commit
-- waits    on products for checkouts, edits and stock moves of the product; 55P03 after lock_timeout -> busy
-- index    products_sku_unique
-- rows     0..1
-- guards   none
SELECT
    id,
    name,
    description,
    category_id,
    price_minor,
    currency,
    stock,
    active,
    sku,
    image_url,
    max_per_order,
    version,
    created_at,
    updated_at
FROM products
WHERE sku = $1
FOR NO KEY UPDATE;
