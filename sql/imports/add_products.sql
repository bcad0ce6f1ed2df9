-- imports/add_products: add the products of a batch of staged lines whose sku is new, with their first units.
-- imports/update_products then moves what their lines add.
--
-- callers  service.shop.imports._apply
-- param    $1 after_line bigint
-- param    $2 last_line bigint
-- param    $3 skip bigint[]
-- param    $4 actor text
-- param    $5 run uuid
-- returns  one
-- locks    categories KEY SHARE; new products, stock_movements; to commit
-- waits    on categories, products for deletion or a new slug of a category, and somebody who adds the same sku;
--          55P03 after lock_timeout -> busy
-- index    import_lines_pkey, products_sku_unique, categories_slug_unique
-- rows     1
-- guards   never products_category_fkey -> category_in_use, never products_sku_unique -> sku_taken,
--          never products_stock_not_negative -> insufficient_stock
WITH new_product AS (
    INSERT INTO products (
        sku, name, description, category_id, price_minor, currency, stock, active, max_per_order, image_url
    )
    SELECT
        line.sku,
        line.name,
        coalesce(line.description, ''),
        category.id,
        line.price_minor,
        line.currency,
        line.stock,
        coalesce(line.active, true),
        line.max_per_order,
        line.image_url
    FROM (
        SELECT
            line,
            sku,
            name,
            description,
            category,
            price_minor,
            currency,
            active,
            max_per_order,
            image_url,
            stock
        FROM import_lines
        WHERE run = $5 AND line > $1 AND line <= $2
        ORDER BY line
        LIMIT 1000
    ) AS line
    LEFT JOIN LATERAL (
        SELECT id
        FROM products
        WHERE sku = line.sku
        ORDER BY sku
        LIMIT 1
    ) AS product ON true
    LEFT JOIN LATERAL (
        SELECT id
        FROM categories
        WHERE slug = line.category
        ORDER BY slug
        LIMIT 1
    ) AS category ON true
    WHERE product.id IS NULL AND line.line <> all($3)
    ORDER BY line.line
    RETURNING
        id,
        stock
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, actor)
    SELECT
        id,
        stock,
        'initial stock',
        $4
    FROM new_product
    WHERE stock > 0
)

SELECT coalesce(array_agg(id), '{}') AS ids
FROM new_product;
