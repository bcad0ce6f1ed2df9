-- catalog/get_product: one product, active or not.
--
-- callers  service.shop.catalog.get_product, service.shop.catalog.move_stock, service.shop.catalog.list_movements
-- param    $1 product_id bigint
-- returns  one or none; none = no such product
-- locks    none
-- waits    none
-- index    products_pkey
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
WHERE id = $1;
