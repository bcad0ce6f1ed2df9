-- ownership/claim_orders: make a user the owner of a cart's orders, and return their e-mail addresses.
--
-- callers  service.shop.ownership._claim
-- param    $1 cart_id uuid
-- param    $2 user_id text
-- returns  many in no order; none = the cart has no orders; a null where none is known
-- locks    orders NO KEY UPDATE in no order; to commit
-- waits    on orders for attaching a session and for a sweep; 55P03 after lock_timeout -> busy;
--          ownership/claim_cart has locked the cart
-- index    orders_by_cart
-- rows     0..n, usually 0
-- guards   none
UPDATE orders
SET
    user_id = $2,
    claimed = true
WHERE cart_id = $1 AND user_id IS NULL
RETURNING email;
