-- transitions/return_stock: release the units that the last hold of each of these orders took.
-- Products are locked by id, as in checkout/reserve, so that the two cannot deadlock.
-- Once for each hold: a refund that returned the units may fail later and be made again.
--
-- callers  service.shop.transitions.return_stock
-- param    $1 order_ids uuid[]
-- param    $2 hold_numbers integer[]
-- returns  many by id; none = the units were released before
-- locks    products NO KEY UPDATE by id; orders KEY SHARE by id; new stock_movements; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy;
--          transitions/lock_orders has locked the orders
-- index    order_items_pkey, products_pkey, stock_movements_once
-- rows     0..n
-- guards   never products_stock_not_negative -> insufficient_stock
WITH line AS MATERIALIZED (
    SELECT
        products.id AS product_id,
        hold.order_id,
        hold.number AS hold_number,
        order_items.quantity
    FROM unnest($1::uuid[], $2::integer[]) AS hold (order_id, number)
    INNER JOIN order_items ON hold.order_id = order_items.order_id
    INNER JOIN products ON order_items.product_id = products.id
    ORDER BY products.id, hold.order_id
    FOR NO KEY UPDATE OF products
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
    SELECT
        product_id,
        quantity,
        'release',
        order_id,
        hold_number
    FROM line
    ON CONFLICT (order_id, product_id, hold, reason) WHERE order_id IS NOT NULL DO NOTHING
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
