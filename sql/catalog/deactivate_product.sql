-- catalog/deactivate_product: take a product off sale; a repeat leaves its version unchanged.
--
-- callers  service.shop.catalog.deactivate_product
-- param    $1 product_id bigint
-- returns  one or none; none = no such product
-- locks    products NO KEY UPDATE; to commit
-- waits    on products for checkouts, edits and stock moves of the product; 55P03 after lock_timeout -> busy
-- index    products_pkey
-- rows     0..1
-- guards   none
UPDATE products
SET
    active = false,
    version = version + active::integer,
    updated_at = now()
WHERE id = $1
RETURNING id;
