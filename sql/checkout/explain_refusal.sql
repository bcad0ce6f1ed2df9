-- checkout/explain_refusal: a cart's lines with stock and prices, to explain a refused checkout; read without locks.
--
-- callers  service.shop.checkout.explain_refusal
-- param    $1 cart_id uuid
-- returns  many by id; none = the cart is empty
-- locks    none
-- waits    none
-- index    cart_items_pkey, products_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
SELECT
    products.id AS product_id,
    cart_items.quantity AS requested,
    products.stock AS available,
    products.active,
    products.price_minor,
    products.currency
FROM cart_items
INNER JOIN products ON cart_items.product_id = products.id
WHERE cart_items.cart_id = $1
ORDER BY products.id;
