-- cart/remove_line: remove a line from a cart.
--
-- callers  service.shop.cart.remove_item
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- returns  none
-- locks    cart_items UPDATE; to commit
-- waits    for nothing: cart/open_cart has locked the cart
-- index    cart_items_pkey
-- rows     0..1
-- guards   none
DELETE FROM cart_items
WHERE cart_id = $1 AND product_id = $2;
