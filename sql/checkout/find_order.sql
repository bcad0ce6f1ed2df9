-- checkout/find_order: a cart's status and its live order.
--
-- callers  service.shop.checkout.reserve
-- param    $1 cart_id uuid
-- param    $2 user_id text null
-- returns  one or none; none = no such cart, or another's; a null order = no live order
-- locks    none
-- waits    none
-- index    carts_pkey, orders_one_live_per_cart
-- rows     0..1
-- guards   none
SELECT
    carts.status AS cart_status,
    orders.id AS order_id
FROM carts
LEFT JOIN orders ON carts.id = orders.cart_id AND orders.status <> 'CANCELLED'
WHERE carts.id = $1 AND (carts.user_id IS NULL OR carts.user_id = $2);
