-- checkout/list_products: the products that a checkout is going to lock.
-- Read before the transaction when a checkout is queueing; the lines are read again under the cart's lock.
--
-- callers  service.shop.checkout.reserve_in_turn
-- param    $1 cart_id uuid
-- returns  many by product_id; none = the cart is empty or does not exist
-- locks    none
-- waits    none
-- index    cart_items_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
SELECT product_id
FROM cart_items
WHERE cart_id = $1
ORDER BY product_id;
