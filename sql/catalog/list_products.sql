-- catalog/list_products: a keyset page of what is for sale.
-- The stock itself stays out: a cached page would go stale with every sale.
--
-- caller   service.shop.catalog._read_page
-- param    $1 after_id bigint
-- param    $2 limit bigint
-- returns  many by id; none = nothing is for sale after $1
-- locks    none
-- waits    none
-- index    products_active
-- rows     0..101 by LIMIT $2, usually 21
-- guards   none
SELECT
    id,
    name,
    category_id,
    price_minor,
    currency,
    stock > 0 AS available
FROM products
WHERE active AND id > $1
ORDER BY id
LIMIT $2;
