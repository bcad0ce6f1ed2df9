-- checkout/close_cart: close an open cart for its checkout.
-- A separate statement: after waiting for this lock, its snapshot is old. The next statement reads the lines.
-- The product ids returned may be outdated. The caller only chooses its limiters by them.
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
RETURNING
    currency,
    array(
        SELECT product_id
        FROM cart_items
        WHERE cart_id = carts.id
        ORDER BY product_id
    ) AS product_ids;
