-- cart/open_cart: lock an open cart for an edit.
--
-- callers  service.shop.cart.remove_item
-- param    $1 cart_id uuid
-- returns  one or none; none = no such cart, or it is checked out
-- locks    carts NO KEY UPDATE; to commit
-- waits    on carts for edits, checkout and transitions of the same cart; 55P03 after lock_timeout -> busy
-- index    carts_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET updated_at = now()
WHERE id = $1 AND status = 'OPEN'
RETURNING id;
