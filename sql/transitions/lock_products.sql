-- transitions/lock_products: lock the products of orders, before their units are released or taken again.
-- By id, as checkout/lock_products does, so that the two cannot deadlock. A separate statement: the next one reads the
-- versions that are locked here, and changes each once.
--
-- callers  service.shop.transitions.lock_products
-- param    $1 order_ids uuid[]
-- returns  many by id; none = no such orders
-- locks    products NO KEY UPDATE by id; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy;
--          transitions/lock_orders has locked the orders
-- index    order_items_pkey, products_pkey
-- rows     0..n
-- guards   none
SELECT id
FROM products
WHERE id = any(array(SELECT product_id FROM order_items WHERE order_id = any($1)))
ORDER BY id
FOR NO KEY UPDATE;
