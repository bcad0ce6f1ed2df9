-- audit_state/list_products: products by id, for a full audit.
--
-- callers  service.shop.audit._everything
-- param    $1 after_id bigint
-- returns  many by id; none = there is no other product
-- locks    none
-- waits    none
-- index    products_pkey
-- rows     0..200 by LIMIT
-- guards   none
SELECT id
FROM products
WHERE id > $1
ORDER BY id
LIMIT 200;
