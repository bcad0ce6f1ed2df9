-- imports/update_products: change the products of a batch that differ from their lines, and move their stock.
-- An absent column (null, or $4 to $6 false) and an equal cell change nothing.
-- The audit log gets the products whose price, name or `active` changes.
--
-- callers  service.shop.imports._apply
-- param    $1 after_line bigint
-- param    $2 last_line bigint
-- param    $3 skip bigint[]
-- param    $4 set_category boolean
-- param    $5 set_max_per_order boolean
-- param    $6 set_image_url boolean
-- param    $7 moved_to bigint
-- param    $8 skipped bigint[]
-- param    $9 reason text
-- param    $10 actor text
-- param    $11 request_id text
-- param    $12 run uuid
-- returns  one
-- locks    products NO KEY UPDATE; categories KEY SHARE; new stock_movements, audit_log; to commit
-- waits    on categories for deletion or a new slug of a category; 55P03 after lock_timeout -> busy;
--          imports/lock_products has locked the products
-- index    import_lines_pkey, products_sku_unique, categories_slug_unique, products_pkey
-- rows     1
-- guards   never products_category_fkey -> category_in_use, never products_stock_not_negative -> insufficient_stock
WITH line AS (
    SELECT
        line.line,
        product.id,
        product.name AS old_name,
        product.price_minor AS old_price_minor,
        product.active AS old_active,
        coalesce(line.name, product.name) AS name,
        coalesce(line.description, product.description) AS description,
        CASE WHEN $4 THEN category.id ELSE product.category_id END AS category_id,
        coalesce(line.price_minor, product.price_minor) AS price_minor,
        coalesce(line.active, product.active) AS active,
        CASE WHEN $5 THEN line.max_per_order ELSE product.max_per_order END AS max_per_order,
        CASE WHEN $6 THEN line.image_url ELSE product.image_url END AS image_url,
        coalesce(line.delta, 0) AS delta,
        coalesce(
            line.name <> product.name
            OR line.description <> product.description
            OR line.price_minor <> product.price_minor
            OR line.active <> product.active
            OR ($4 AND category.id IS DISTINCT FROM product.category_id)
            OR ($5 AND line.max_per_order IS DISTINCT FROM product.max_per_order)
            OR ($6 AND line.image_url IS DISTINCT FROM product.image_url),
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
            CASE WHEN line > $7 OR line = any($8) THEN stock_delta END AS delta
        FROM import_lines
        WHERE run = $12 AND line > $1 AND line <= $2
        ORDER BY line
        LIMIT 1000
    ) AS line
    INNER JOIN LATERAL (
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
    WHERE line.line <> all($3)
),

changed_product AS (
    UPDATE products
    SET
        name = line.name,
        description = line.description,
        category_id = line.category_id,
        price_minor = line.price_minor,
        active = line.active,
        max_per_order = line.max_per_order,
        image_url = line.image_url,
        stock = products.stock + line.delta,
        version = products.version + line.differs::integer,
        updated_at = now()
    FROM line
    WHERE products.id = line.id AND (line.differs OR line.delta <> 0)
    RETURNING
        products.id,
        line.line,
        line.differs,
        line.delta,
        line.delta <> 0 AND products.stock IN (0, line.delta) AS availability_changed
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, actor)
    SELECT
        id,
        delta,
        $9 || ', line ' || line,
        $10
    FROM changed_product
    WHERE delta <> 0
),

entry AS (
    INSERT INTO audit_log (actor, action, subject, before, after, request_id)
    SELECT
        $10,
        'update_product',
        'product:' || id,
        jsonb_strip_nulls(jsonb_build_object(
            'name', CASE WHEN name <> old_name THEN old_name END,
            'price_minor', CASE WHEN price_minor <> old_price_minor THEN old_price_minor END,
            'active', CASE WHEN active <> old_active THEN old_active END
        )),
        jsonb_strip_nulls(jsonb_build_object(
            'name', CASE WHEN name <> old_name THEN name END,
            'price_minor', CASE WHEN price_minor <> old_price_minor THEN price_minor END,
            'active', CASE WHEN active <> old_active THEN active END
        )),
        $11
    FROM line
    WHERE name <> old_name OR price_minor <> old_price_minor OR active <> old_active
)

SELECT
    coalesce(array_agg(id) FILTER (WHERE differs), '{}') AS ids,
    coalesce(array_agg(id) FILTER (WHERE availability_changed), '{}') AS availability_changed_ids,
    count(*) FILTER (WHERE delta <> 0) AS moved
FROM changed_product;
