-- checkout/close_cart: close an open cart for its checkout.
-- A statement of its own: one that waits here goes on with its old snapshot, so the lines are read by the next.
-- Their products, as old, are only told so that the caller can queue for them.
--
-- callers  service.shop.checkout.reserve
-- param    $1 cart_id uuid
-- returns  one or none; none = no such cart, or it is checked out
-- locks    carts NO KEY UPDATE; to commit
-- waits    on carts for edits, checkout and transitions of the same cart; 55P03 after lock_timeout -> busy
-- index    carts_pkey, cart_items_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET
    status = 'CHECKED_OUT',
    ordered_at = now(),
    updated_at = now()
WHERE id = $1 AND status = 'OPEN'
RETURNING array(
    SELECT product_id
    FROM cart_items
    WHERE cart_id = carts.id
    ORDER BY product_id
) AS product_ids;
