-- catalog/lock_product: lock a product for an edit by staff, and read it as it is before.
-- A separate statement: the edit after it has a snapshot of its own, so the two see one version. An edit that also
-- returned what it replaced would return what its snapshot saw before it waited.
--
-- callers  service.shop.catalog.update_product, service.shop.catalog.deactivate_product
-- param    $1 product_id bigint
-- returns  one or none; none = no such product
-- locks    products NO KEY UPDATE; to commit
-- waits    on products for checkouts, edits and stock moves of the product; 55P03 after lock_timeout -> busy
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
WHERE id = $1
FOR NO KEY UPDATE;
