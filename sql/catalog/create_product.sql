-- catalog/create_product: add a product, with its first units in the ledger.
-- An unknown category inserts nothing: the foreign key's error would be reported as category_in_use.
--
-- callers  service.shop.catalog._create
-- param    $1 name text
-- param    $2 description text
-- param    $3 category_id bigint null
-- param    $4 price_minor bigint
-- param    $5 currency text
-- param    $6 stock integer
-- param    $7 active boolean
-- param    $8 sku text null
-- param    $9 image_url text null
-- param    $10 max_per_order integer null
-- param    $11 actor text
-- returns  one or none; none = no such category
-- locks    categories KEY SHARE; new products, stock_movements; to commit
-- waits    on categories, products for deletion or a new slug of the category, and for another product that takes this
--          sku; 55P03 after lock_timeout -> busy
-- index    categories_pkey
-- rows     0..1
-- guards   products_sku_unique -> sku_taken, products_stock_not_negative -> insufficient_stock,
--          never products_category_fkey -> category_in_use
WITH new_product AS (
    INSERT INTO products (
        name, description, category_id, price_minor, currency, stock, active, sku, image_url, max_per_order
    )
    SELECT
        $1,
        $2,
        $3,
        $4,
        $5,
        $6,
        $7,
        $8,
        $9,
        $10
    WHERE $3::bigint IS NULL OR EXISTS (SELECT FROM categories WHERE id = $3 FOR KEY SHARE)
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
        stock,
        'initial stock',
        $11
    FROM new_product
    WHERE stock > 0
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
FROM new_product;
