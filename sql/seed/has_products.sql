-- seed/has_products: whether there is any product.
--
-- caller   service.dev.seed.seed
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT exists(SELECT FROM products) AS found;
