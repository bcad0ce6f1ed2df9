-- ownership/claim_cart: make a user the owner of a cart that nobody owns.
-- The next statement, ownership/claim_orders, sees every order of the cart: none is placed while the cart is locked.
--
-- callers  service.shop.ownership._claim
-- param    $1 cart_id uuid
-- param    $2 user_id text
-- returns  one or none; none = no such cart, or it has an owner
-- locks    carts NO KEY UPDATE; to commit
-- waits    on carts for edits, checkout and transitions of the same cart; 55P03 after lock_timeout -> busy
-- index    carts_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET user_id = $2
WHERE id = $1 AND user_id IS NULL
RETURNING id;
