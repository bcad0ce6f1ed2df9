-- settlement/restore_cart: put the lines of an order into its emptied cart.
--
-- callers  service.shop.settlement.apply_late_payment
-- param    $1 cart_id uuid
-- param    $2 order_id uuid
-- returns  none
-- locks    carts KEY SHARE; new cart_items; to commit
-- waits    for nothing: settlement/replace_cart has locked the cart
-- index    order_items_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   never cart_items_quantity_range -> invalid
INSERT INTO cart_items (cart_id, product_id, quantity)
SELECT
    $1,
    product_id,
    quantity
FROM order_items
WHERE order_id = $2;
