-- cart/add_line: add units to a cart line, or create the line.
--
-- callers  service.dev.seed._add_examples, service.shop.cart.add_item
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- param    $3 quantity integer
-- returns  none
-- locks    carts KEY SHARE; cart_items NO KEY UPDATE; new cart_items; to commit
-- waits    for nothing: cart/open_for_product has locked the cart
-- index    cart_items_pkey
-- rows     1
-- guards   cart_items_quantity_range -> invalid
INSERT INTO cart_items (cart_id, product_id, quantity)
VALUES ($1, $2, $3)
ON CONFLICT (cart_id, product_id) DO UPDATE
    SET quantity = cart_items.quantity + excluded.quantity;
