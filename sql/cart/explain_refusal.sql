-- cart/explain_refusal: why a cart line was refused, read without locks after the refusal.
--
-- callers  service.shop.cart._explain_refusal
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- param    $3 user_id text null
-- returns  one; nulls = no such cart, product or live order, or another's cart
-- locks    none
-- waits    none
-- index    carts_pkey, products_pkey, orders_one_live_per_cart
-- rows     1
-- guards   none
SELECT
    carts.status AS cart_status,
    carts.currency AS cart_currency,
    orders.id AS order_id,
    products.active AS product_active,
    products.currency AS product_currency
FROM (VALUES (1)) AS single_row (number)
LEFT JOIN carts ON carts.id = $1 AND (carts.user_id IS NULL OR carts.user_id = $3)
LEFT JOIN products ON products.id = $2
LEFT JOIN orders ON orders.cart_id = $1 AND orders.status <> 'CANCELLED';
