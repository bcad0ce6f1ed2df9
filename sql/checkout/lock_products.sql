-- checkout/lock_products: lock the products of a closed cart, before checkout/reserve takes units of more than one.
-- A separate statement: checkout/reserve then reads the versions that are locked here, and changes each once.
--
-- callers  service.shop.checkout.reserve
-- param    $1 cart_id uuid
-- returns  many by id; none = the cart is empty
-- locks    products NO KEY UPDATE by id; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy;
--          checkout/close_cart has locked the cart
-- index    cart_items_pkey, products_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
SELECT products.id
FROM cart_items
INNER JOIN products ON cart_items.product_id = products.id
WHERE cart_items.cart_id = $1
ORDER BY products.id
FOR NO KEY UPDATE OF products;
