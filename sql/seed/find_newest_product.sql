-- seed/find_newest_product: the name of the newest product, which tells whether and where demo products end.
--
-- callers  service.dev.seed.seed
-- returns  one or none; none = there are no products
-- locks    none
-- waits    none
-- index    products_pkey
-- rows     0..1
-- guards   none
SELECT name
FROM products
ORDER BY id DESC
LIMIT 1;
