-- seed/add_products: add a batch of demo products with their first units; one array for each column.
--
-- callers  service.dev.seed.seed
-- param    $1 names text[]
-- param    $2 descriptions text[]
-- param    $3 category_ids bigint[]
-- param    $4 prices_minor bigint[]
-- param    $5 currencies text[]
-- param    $6 stocks integer[]
-- param    $7 actor text
-- returns  none
-- locks    categories KEY SHARE in no order; new stock_movements, products; to commit
-- waits    on categories for deletion or a new slug of a category; 55P03 after lock_timeout -> busy
-- index    none
-- rows     1..1000 by service.dev.seed.BATCH
-- guards   products_category_fkey -> category_in_use, products_stock_not_negative -> insufficient_stock
WITH new_product AS (
    INSERT INTO products (name, description, category_id, price_minor, currency, stock)
    SELECT
        batch.name,
        batch.description,
        batch.category_id,
        batch.price_minor,
        batch.currency,
        batch.stock
    FROM
        unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::integer[])
        WITH ORDINALITY AS batch (name, description, category_id, price_minor, currency, stock, position)
    ORDER BY batch.position
    RETURNING
        id,
        stock
)

INSERT INTO stock_movements (product_id, delta, reason, actor)
SELECT
    id,
    stock,
    'initial stock',
    $7
FROM new_product
WHERE stock > 0;
