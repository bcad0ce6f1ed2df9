-- cart/add_line: add units to a cart line, or create the line, up to a limit.
--
-- callers  service.dev.seed._add_examples, service.shop.cart.add_item
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- param    $3 quantity integer
-- param    $4 max_per_order integer
-- returns  one or none; none = the line would have more than $4 units
-- locks    carts KEY SHARE; cart_items NO KEY UPDATE; new cart_items; to commit
-- waits    for nothing: cart/open_for_product has locked the cart
-- index    cart_items_pkey
-- rows     0..1
-- guards   cart_items_quantity_range -> invalid
INSERT INTO cart_items (cart_id, product_id, quantity)
SELECT
    $1,
    $2,
    $3
WHERE $3::integer <= $4::integer
ON CONFLICT (cart_id, product_id) DO UPDATE
    SET quantity = cart_items.quantity + excluded.quantity
    WHERE cart_items.quantity + excluded.quantity <= $4
RETURNING quantity;
