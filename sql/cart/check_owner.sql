-- cart/check_owner: whether a user, or a guest, may change a cart.
--
-- callers  service.shop.cart.check_owner
-- param    $1 cart_id uuid
-- param    $2 user_id text null
-- returns  one or none; none = no such cart, or another's
-- locks    none
-- waits    none
-- index    carts_pkey
-- rows     0..1
-- guards   none
SELECT id
FROM carts
WHERE id = $1 AND (user_id IS NULL OR user_id = $2);
