-- imports/lock_products: lock the products of a batch that differ from their lines, in the order of checkouts.
-- A separate statement, as catalog/lock_product: the statements after it see these versions. Sales of products that
-- equal their lines do not wait.
--
-- callers  service.shop.imports._apply
-- param    $1 after_line bigint
-- param    $2 last_line bigint
-- param    $3 set_category boolean
-- param    $4 set_max_per_order boolean
-- param    $5 set_image_url boolean
-- param    $6 moved_to bigint
-- param    $7 skipped bigint[]
-- param    $8 run uuid
-- returns  one
-- locks    products NO KEY UPDATE by id; to commit
-- waits    on products for checkouts, edits and stock moves of a product; 55P03 after lock_timeout -> busy
-- index    import_lines_pkey, products_sku_unique, categories_slug_unique, products_pkey
-- rows     1
-- guards   none
WITH line AS (
    SELECT
        product.id,
        line.delta IS NOT NULL
        OR coalesce(
            line.name <> product.name
            OR line.description <> product.description
            OR line.price_minor <> product.price_minor
            OR line.active <> product.active
            OR ($3 AND category.id IS DISTINCT FROM product.category_id)
            OR ($4 AND line.max_per_order IS DISTINCT FROM product.max_per_order)
            OR ($5 AND line.image_url IS DISTINCT FROM product.image_url),
            false
        ) AS differs
    FROM (
        SELECT
            line,
            sku,
            name,
            description,
            category,
            price_minor,
            active,
            max_per_order,
            image_url,
            CASE WHEN line > $6 OR line = any($7) THEN stock_delta END AS delta
        FROM import_lines
        WHERE run = $8 AND line > $1 AND line <= $2
        ORDER BY line
        LIMIT 1000
    ) AS line
    LEFT JOIN LATERAL (
        SELECT
            id,
            name,
            description,
            category_id,
            price_minor,
            active,
            max_per_order,
            image_url
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
),

locked_product AS (
    SELECT products.id
    FROM line
    INNER JOIN products ON line.id = products.id
    WHERE line.differs
    ORDER BY products.id
    FOR NO KEY UPDATE OF products
)

SELECT
    count(*) AS lines,
    count(id) AS products,
    (SELECT count(*) FROM locked_product) AS locked
FROM line;
