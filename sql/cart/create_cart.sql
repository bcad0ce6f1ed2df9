-- cart/create_cart: create an empty cart, of a user or of nobody.
--
-- callers  service.dev.seed._add_examples, service.shop.cart.create_cart
-- param    $1 cart_id uuid
-- param    $2 user_id text null
-- param    $3 reference text null
-- returns  none
-- locks    new carts; to commit
-- waits    for nothing: the id is new
-- index    none
-- rows     1
-- guards   none
INSERT INTO carts (id, user_id, reference)
VALUES ($1, $2, $3);
