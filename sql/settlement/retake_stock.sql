-- settlement/retake_stock: after a late payment, take every line of a cancelled order again, or nothing.
--
-- callers  service.shop.settlement.apply_late_payment
-- param    $1 order_id uuid
-- param    $2 hold_number integer
-- param    $3 actor text
-- returns  many by id; none = a line is short, and nothing was taken
-- locks    products NO KEY UPDATE; orders KEY SHARE; new stock_movements; to commit
-- waits    for nothing: transitions/lock_products has locked the products
-- index    order_items_pkey, products_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   stock_movements_once -> busy, never products_stock_not_negative -> insufficient_stock
WITH line AS MATERIALIZED (
    SELECT
        products.id AS product_id,
        products.stock,
        order_items.quantity
    FROM order_items
    INNER JOIN products ON order_items.product_id = products.id
    WHERE order_items.order_id = $1
),

availability AS MATERIALIZED (
    SELECT bool_and(stock >= quantity) AS sufficient
    FROM line
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold, actor)
    SELECT
        line.product_id,
        -line.quantity,
        'hold',
        $1,
        $2,
        $3
    FROM line, availability
    WHERE availability.sufficient
),

reserved AS (
    UPDATE products
    SET
        stock = products.stock - line.quantity,
        updated_at = now()
    FROM line, availability
    WHERE products.id = line.product_id AND availability.sufficient
    RETURNING
        products.id,
        products.stock,
        line.quantity
)

SELECT
    id AS product_id,
    stock,
    quantity
FROM reserved
ORDER BY id;
