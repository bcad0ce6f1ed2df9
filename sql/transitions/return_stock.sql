-- transitions/return_stock: release the units that the last hold of each of these orders took, and that are not back.
-- Once for each hold. Refunds by line may have returned some of them (refunds/return_units).
--
-- callers  service.shop.transitions.return_stock
-- param    $1 order_ids uuid[]
-- param    $2 hold_numbers integer[]
-- param    $3 actor text
-- returns  many by id; none = the units were released before
-- locks    products NO KEY UPDATE; orders KEY SHARE; new stock_movements; to commit
-- waits    for nothing: transitions/lock_products has locked the products
-- index    order_items_pkey, products_pkey, stock_movements_once
-- rows     0..n
-- guards   never products_stock_not_negative -> insufficient_stock, never stock_movements_once -> busy
WITH line AS (
    SELECT
        hold.order_id,
        hold.number,
        order_items.product_id,
        order_items.quantity - coalesce((
            SELECT sum(stock_movements.delta)
            FROM stock_movements
            WHERE
                stock_movements.order_id = hold.order_id
                AND stock_movements.product_id = order_items.product_id
                AND stock_movements.hold = hold.number
                AND stock_movements.delta > 0
        ), 0) AS quantity
    FROM unnest($1::uuid[], $2::integer[]) AS hold (order_id, number)
    INNER JOIN order_items ON hold.order_id = order_items.order_id
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold, actor)
    SELECT
        product_id,
        quantity,
        'release',
        order_id,
        number,
        $3
    FROM line
    WHERE quantity > 0
    RETURNING
        product_id,
        delta AS quantity
),

-- One row for each product, because an UPDATE changes a row only once.
released AS (
    SELECT
        product_id,
        sum(quantity)::integer AS quantity
    FROM movement
    GROUP BY product_id
),

restocked AS (
    UPDATE products
    SET
        stock = products.stock + released.quantity,
        updated_at = now()
    FROM released
    WHERE products.id = released.product_id
    RETURNING
        products.id,
        products.stock,
        released.quantity
)

SELECT
    id AS product_id,
    stock,
    quantity
FROM restocked
ORDER BY id;
