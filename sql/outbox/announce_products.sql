-- outbox/announce_products: write product.sold_out or product.restocked for products whose stock became 0 or left 0.
-- One of each type for a product and minute. A change within this minute becomes due at its end; if the stock is then
-- what the last event said, there is nothing to say. The announcements are kept also while no endpoint receives them.
--
-- callers  service.shop.outbox.announce_products
-- param    $1 product_ids bigint[]
-- returns  none
-- locks    product_announcements NO KEY UPDATE in no order; new product_announcements, event_deliveries; to commit
-- waits    for nothing: deliveries/lock_products has locked the products
-- index    event_endpoints_active, products_pkey, product_announcements_pkey
-- rows     0..n, usually 0
-- guards   none
WITH product AS MATERIALIZED (
    SELECT
        products.id,
        products.stock,
        product_announcements.sold_out AS announced,
        products.stock = 0 AS is_sold_out,
        CASE WHEN products.stock = 0 THEN 'product.sold_out' ELSE 'product.restocked' END AS type,
        CASE
            WHEN products.stock = 0 THEN product_announcements.sold_out_at
            ELSE product_announcements.restocked_at
        END AS announced_at,
        clock_timestamp() AS at,
        gen_random_uuid() AS event_id
    FROM products
    LEFT JOIN product_announcements ON products.id = product_announcements.product_id
    WHERE products.id = any($1)
),

-- When it may be announced. Null: it is what the last event said.
change AS MATERIALIZED (
    SELECT
        id,
        stock,
        announced,
        is_sold_out,
        type,
        at,
        event_id,
        CASE
            WHEN announced IS NULL OR announced <> is_sold_out
                THEN greatest(at, announced_at + interval '1 minute')
        END AS due_at
    FROM product
),

event AS (
    INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
    SELECT
        event_endpoints.id,
        change.event_id,
        change.type,
        'product:' || change.id,
        jsonb_build_object('product_id', change.id, 'stock', change.stock)
    FROM change
    INNER JOIN event_endpoints ON event_endpoints.active AND change.type = any(event_endpoints.types)
    WHERE change.due_at = change.at
)

INSERT INTO product_announcements (product_id, sold_out, sold_out_at, restocked_at, due_at)
SELECT
    id,
    CASE WHEN due_at > at THEN announced ELSE is_sold_out END,
    CASE WHEN due_at = at AND is_sold_out THEN at END,
    CASE WHEN due_at = at AND NOT is_sold_out THEN at END,
    CASE WHEN due_at > at THEN due_at END
FROM change
ON CONFLICT (product_id) DO UPDATE
    SET
        sold_out = excluded.sold_out,
        sold_out_at = coalesce(excluded.sold_out_at, product_announcements.sold_out_at),
        restocked_at = coalesce(excluded.restocked_at, product_announcements.restocked_at),
        due_at = excluded.due_at;
