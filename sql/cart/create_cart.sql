-- cart/create_cart: an empty cart.
--
-- caller   service.shop.cart.create_cart
-- param    $1 id uuid
-- returns  none
-- locks    the new row, to commit
-- waits    none
-- index    none
-- rows     1
-- guards   none
INSERT INTO carts (id)
VALUES ($1);
