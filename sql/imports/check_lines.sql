-- imports/check_lines: what is wrong with a batch of staged lines beside the tables, as `column reason`.
-- $4 and $5 say which lines have still to move their stock. $6 is the highest price in most currencies; $7 and $8 are
-- the currencies with another one. The constant LIMITs make a plan that searches the indexes, however small the tables
-- are when it is made: an import fills them. A line has one problem of each of the seven columns at most.
--
-- callers  service.shop.imports._problems
-- param    $1 after_line bigint
-- param    $2 last_line bigint
-- param    $3 find_repeated boolean
-- param    $4 moved_to bigint
-- param    $5 skipped bigint[]
-- param    $6 maximum_minor bigint
-- param    $7 currencies text[]
-- param    $8 maxima_minor bigint[]
-- param    $9 run uuid
-- returns  many by line; none = all lines can be applied
-- locks    none
-- waits    none
-- index    import_lines_pkey, import_lines_by_sku, products_sku_unique, categories_slug_unique
-- rows     0..7000 by LIMIT, usually 0
-- guards   none
SELECT
    line.line,
    problem.problem,
    first.line AS first_line,
    coalesce(other.maximum_minor, $6) AS maximum_minor,
    coalesce(product.stock, line.stock) AS stock
FROM (
    SELECT
        line,
        sku,
        name,
        category,
        price_minor,
        currency,
        stock,
        CASE WHEN line > $4 OR line = any($5) THEN stock_delta::bigint END AS delta
    FROM import_lines
    WHERE run = $9 AND line > $1 AND line <= $2
    ORDER BY line
    LIMIT 1000
) AS line
LEFT JOIN LATERAL (
    SELECT
        id,
        price_minor,
        currency,
        stock
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
LEFT JOIN LATERAL (
    SELECT earlier.line
    FROM import_lines AS earlier
    WHERE $3 AND earlier.run = $9 AND earlier.sku = line.sku AND earlier.line < line.line
    ORDER BY earlier.line
    LIMIT 1
) AS first ON true
LEFT JOIN unnest($7::text[], $8::bigint[]) AS other (currency, maximum_minor)
    ON other.currency = coalesce(product.currency, line.currency)
INNER JOIN LATERAL unnest(ARRAY[
    CASE WHEN first.line IS NOT NULL THEN 'sku repeated' END,
    CASE WHEN product.id IS NULL AND line.name IS NULL THEN 'name required' END,
    CASE WHEN category.id IS NULL AND line.category IS NOT NULL THEN 'category unknown' END,
    CASE
        WHEN product.id IS NULL AND line.price_minor IS NULL THEN 'price_minor required'
        WHEN line.price_minor > coalesce(other.maximum_minor, $6) THEN 'price_minor maximum'
    END,
    CASE
        WHEN product.id IS NULL AND line.currency IS NULL THEN 'currency required'
        WHEN line.currency <> product.currency THEN 'currency fixed'
    END,
    CASE WHEN product.id IS NULL AND line.stock IS NULL THEN 'stock required' END,
    CASE WHEN coalesce(product.stock, line.stock) + line.delta NOT BETWEEN 0 AND 1000000000 THEN 'stock_delta units' END
]) AS problem (problem) ON problem.problem IS NOT NULL
ORDER BY line.line
LIMIT 7000;
