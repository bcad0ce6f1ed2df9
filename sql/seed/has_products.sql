-- seed/has_products: whether there is any product.
--
-- callers  service.dev.seed.seed
-- returns  one
-- locks    none
-- waits    none
-- index    products_pkey
-- rows     1
-- guards   none
SELECT (SELECT min(id) FROM products) IS NOT NULL AS any_product;
