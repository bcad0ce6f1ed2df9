-- transitions/return_stock: give back the units that the last hold of each of some orders took.
-- Locks in the order that checkout locks, so the two can never wait for each other in a circle.
-- Once for each hold: a refund that put the units back may fail later and be made again.
--
-- callers  service.shop.transitions.return_stock
-- param    $1 order_ids uuid[]
-- param    $2 hold_numbers integer[]
-- returns  many by id; none = they came back before
-- locks    products NO KEY UPDATE by id; orders KEY SHARE by id; new stock_movements; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy
-- index    order_items_pkey, products_pkey, stock_movements_once
-- rows     0..n
-- guards   never products_stock_not_negative -> insufficient_stock
WITH line AS MATERIALIZED (
    SELECT
        products.id AS product_id,
        given.order_id,
        given.hold,
        order_items.quantity
    FROM unnest($1::uuid[], $2::integer[]) AS given (order_id, hold)
    INNER JOIN order_items ON given.order_id = order_items.order_id
    INNER JOIN products ON order_items.product_id = products.id
    ORDER BY products.id, given.order_id
    FOR NO KEY UPDATE OF products
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
    SELECT
        product_id,
        quantity,
        'release',
        order_id,
        hold
    FROM line
    ON CONFLICT (order_id, product_id, hold, reason) WHERE order_id IS NOT NULL DO NOTHING
    RETURNING
        product_id,
        delta AS quantity
),

-- A product once, however many of the orders had it: an UPDATE changes a row once.
back AS (
    SELECT
        product_id,
        sum(quantity)::integer AS quantity
    FROM movement
    GROUP BY product_id
),

returned AS (
    UPDATE products
    SET
        stock = products.stock + back.quantity,
        updated_at = now()
    FROM back
    WHERE products.id = back.product_id
    RETURNING
        products.id,
        products.stock,
        back.quantity
)

SELECT
    id AS product_id,
    stock,
    quantity
FROM returned
ORDER BY id;
