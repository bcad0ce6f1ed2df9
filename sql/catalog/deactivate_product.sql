-- catalog/deactivate_product: take a product off sale; a repeat leaves its version unchanged.
--
-- callers  service.shop.catalog.deactivate_product
-- param    $1 product_id bigint
-- returns  none
-- locks    products NO KEY UPDATE; to commit
-- waits    for nothing: catalog/lock_product has locked the product
-- index    products_pkey
-- rows     0..1
-- guards   none
UPDATE products
SET
    active = false,
    version = version + active::integer,
    updated_at = now()
WHERE id = $1;
