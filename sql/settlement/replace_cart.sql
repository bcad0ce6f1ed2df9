-- settlement/replace_cart: empty a cart whose lines are no longer its order's; its owner gets them in a new cart.
-- The next statement, settlement/restore_cart, inserts the order's lines: one cannot both delete and insert a line.
-- A cart without lines needs no new cart.
--
-- callers  service.shop.settlement.apply_late_payment
-- param    $1 cart_id uuid
-- param    $2 order_id uuid
-- param    $3 new_cart_id uuid
-- returns  one or none; none = the lines are those of the order
-- locks    carts NO KEY UPDATE; cart_items UPDATE in no order; new carts, cart_items; to commit
-- waits    for nothing: transitions/lock_order has locked the cart
-- index    cart_items_pkey, order_items_pkey, carts_pkey, orders_pkey
-- rows     0..1
-- guards   never cart_items_quantity_range -> invalid
WITH changed AS MATERIALIZED (
    SELECT
        carts.id,
        carts.currency,
        carts.user_id
    FROM carts
    WHERE
        carts.id = $1
        AND array(
            SELECT (cart_items.product_id, cart_items.quantity)
            FROM cart_items
            WHERE cart_items.cart_id = $1
            ORDER BY cart_items.product_id
        ) <> array(
            SELECT (order_items.product_id, order_items.quantity)
            FROM order_items
            WHERE order_items.order_id = $2
            ORDER BY order_items.product_id
        )
),

new_cart AS (
    INSERT INTO carts (id, currency, user_id)
    SELECT
        $3,
        currency,
        user_id
    FROM changed
    WHERE EXISTS (SELECT FROM cart_items WHERE cart_id = $1)
    RETURNING id
),

copied AS (
    INSERT INTO cart_items (cart_id, product_id, quantity)
    SELECT
        new_cart.id,
        cart_items.product_id,
        cart_items.quantity
    FROM new_cart
    INNER JOIN cart_items ON cart_items.cart_id = $1
),

removed AS (
    DELETE FROM cart_items
    USING changed
    WHERE cart_items.cart_id = changed.id
)

UPDATE carts
SET
    currency = (SELECT currency FROM orders WHERE id = $2),
    replaced_by = coalesce((SELECT id FROM new_cart), carts.replaced_by),
    updated_at = now()
FROM changed
WHERE carts.id = changed.id
RETURNING carts.id;
