-- cart/forget_currency: clear the currency of an empty cart, so that it accepts any currency again.
--
-- callers  service.shop.cart.remove_item
-- param    $1 cart_id uuid
-- returns  none
-- locks    carts NO KEY UPDATE; to commit
-- waits    for nothing: cart/open_cart has locked the cart
-- index    carts_pkey, cart_items_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET currency = NULL
WHERE id = $1 AND NOT EXISTS (SELECT FROM cart_items WHERE cart_id = $1);
