-- deliveries/lock_products: lock products whose change of stock is to be announced, so that it stays as it is.
-- By id, as checkout/lock_products does.
--
-- callers  service.shop.deliveries._announce_due
-- param    $1 product_ids bigint[]
-- returns  many by id; none = no such products
-- locks    products NO KEY UPDATE by id; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy
-- index    products_pkey
-- rows     0..100 by service.shop.deliveries.BATCH, usually 0
-- guards   none
SELECT id
FROM products
WHERE id = any($1)
ORDER BY id
FOR NO KEY UPDATE;
