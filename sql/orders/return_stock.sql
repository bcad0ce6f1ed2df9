-- orders/return_stock: give back the units that an order's last hold took.
-- Locks in the order that checkout locks, so the two can never wait for each other in a circle.
-- Once for each hold: a refund that put the units back may fail later and be made again.
--
-- caller   service.shop.orders.return_stock
-- param    $1 order_id uuid
-- param    $2 hold integer
-- returns  many by id; none = they came back before
-- locks    products NO KEY UPDATE by id; orders KEY SHARE; new stock_movements; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy
-- index    order_items_pkey, products_pkey, stock_movements_once
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   never products_stock_not_negative -> insufficient_stock
WITH line AS MATERIALIZED (
    SELECT
        products.id AS product_id,
        order_items.quantity
    FROM order_items
    INNER JOIN products ON order_items.product_id = products.id
    WHERE order_items.order_id = $1
    ORDER BY products.id
    FOR NO KEY UPDATE OF products
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
    SELECT
        product_id,
        quantity,
        'release',
        $1,
        $2
    FROM line
    ON CONFLICT (order_id, product_id, hold, reason) WHERE order_id IS NOT NULL DO NOTHING
    RETURNING product_id
),

returned AS (
    UPDATE products
    SET
        stock = products.stock + line.quantity,
        updated_at = now()
    FROM line
    INNER JOIN movement ON line.product_id = movement.product_id
    WHERE products.id = line.product_id
    RETURNING
        products.id,
        products.stock,
        line.quantity
)

SELECT
    id AS product_id,
    stock,
    quantity
FROM returned
ORDER BY id;
