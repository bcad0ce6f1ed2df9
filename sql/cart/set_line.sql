-- cart/set_line: set a line's units, making it when it is not there.
--
-- caller   service.shop.cart.set_item
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- param    $3 quantity integer
-- returns  none
-- locks    the line, FOR NO KEY UPDATE; the cart and the product, FOR KEY SHARE; to commit
-- waits    for nothing that checkout does: KEY SHARE goes beside FOR NO KEY UPDATE
-- index    cart_items_pkey
-- rows     1
-- guards   cart_items_quantity_range -> invalid
INSERT INTO cart_items (cart_id, product_id, quantity)
VALUES ($1, $2, $3)
ON CONFLICT (cart_id, product_id) DO UPDATE
    SET quantity = excluded.quantity;
