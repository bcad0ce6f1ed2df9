-- refunds/return_units: return units of an order to the stock, each for a refund that refunds/list_returns has named.
--
-- callers  service.shop.refunds.return_units
-- param    $1 order_id uuid
-- param    $2 hold_number integer
-- param    $3 actor text
-- param    $4 refund_ids uuid[]
-- param    $5 product_ids bigint[]
-- param    $6 quantities integer[]
-- returns  many by id; none = none are named
-- locks    products NO KEY UPDATE; orders KEY SHARE; new stock_movements; to commit
-- waits    for nothing: transitions/lock_products has locked the products
-- index    products_pkey
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 1
-- guards   never products_stock_not_negative -> insufficient_stock, never stock_movements_once -> busy
WITH movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold, actor)
    SELECT
        product_id,
        quantity,
        'refund:' || refund_id,
        $1,
        $2,
        $3
    FROM unnest($4::uuid[], $5::bigint[], $6::integer[]) AS item (refund_id, product_id, quantity)
    RETURNING
        product_id,
        delta
),

-- One row for each product, because an UPDATE changes a row only once.
released AS (
    SELECT
        product_id,
        sum(delta)::integer AS quantity
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
