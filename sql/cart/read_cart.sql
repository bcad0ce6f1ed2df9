-- cart/read_cart: a cart with its lines at today's prices, in one snapshot.
--
-- caller   service.shop.cart.read
-- param    $1 id uuid
-- returns  many, by product id; one row with a null product = an empty cart; none = there is no such cart
-- locks    none
-- waits    none
-- index    carts_pkey, cart_items_pkey, products_pkey
-- rows     0..101, usually 3
-- guards   none
SELECT
    carts.id,
    carts.status,
    carts.currency,
    cart_items.product_id,
    products.name,
    cart_items.quantity,
    products.price_minor AS unit_price_minor
FROM carts
LEFT JOIN cart_items ON carts.id = cart_items.cart_id
LEFT JOIN products ON cart_items.product_id = products.id
WHERE carts.id = $1
ORDER BY cart_items.product_id;
