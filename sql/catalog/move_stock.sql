-- catalog/move_stock: change a product's stock by a delta, with a ledger row, within 0 to 1,000,000,000.
--
-- callers  service.shop.catalog.move_stock
-- param    $1 product_id bigint
-- param    $2 delta integer
-- param    $3 reason text
-- param    $4 actor text
-- returns  one or none; none = no such product, or its stock would leave these bounds
-- locks    products NO KEY UPDATE; new stock_movements; to commit
-- waits    on products for checkouts, edits and stock moves of the product; 55P03 after lock_timeout -> busy
-- index    products_pkey
-- rows     0..1
-- guards   never products_stock_not_negative -> insufficient_stock
WITH moved_product AS (
    UPDATE products
    SET
        stock = stock + $2,
        updated_at = now()
    WHERE id = $1 AND stock + $2 BETWEEN 0 AND 1000000000
    RETURNING
        id,
        name,
        description,
        category_id,
        price_minor,
        currency,
        stock,
        active,
        sku,
        image_url,
        max_per_order,
        version,
        created_at,
        updated_at
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, actor)
    SELECT
        id,
        $2,
        $3,
        $4
    FROM moved_product
)

SELECT
    id,
    name,
    description,
    category_id,
    price_minor,
    currency,
    stock,
    active,
    sku,
    image_url,
    max_per_order,
    version,
    created_at,
    updated_at
FROM moved_product;
