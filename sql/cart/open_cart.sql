-- cart/open_cart: lock an open cart for an edit by $2, who owns it unless nobody does.
--
-- callers  service.shop.cart.remove_item
-- param    $1 cart_id uuid
-- param    $2 user_id text null
-- returns  one or none; none = no such cart, or it is checked out, or another's
-- locks    carts NO KEY UPDATE; to commit
-- waits    on carts for edits, checkout and transitions of the same cart; 55P03 after lock_timeout -> busy
-- index    carts_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET updated_at = now()
WHERE id = $1 AND status = 'OPEN' AND (user_id IS NULL OR user_id = $2)
RETURNING id;
