-- catalog/update_product: an edit by staff; null leaves a column unchanged, $6 and $9 say whether $7 and $10 apply.
--
-- callers  service.shop.catalog.update_product
-- param    $1 product_id bigint
-- param    $2 version integer null
-- param    $3 name text null
-- param    $4 description text null
-- param    $5 price_minor bigint null
-- param    $6 set_category boolean
-- param    $7 category_id bigint null
-- param    $8 active boolean null
-- param    $9 set_max_per_order boolean
-- param    $10 max_per_order integer null
-- returns  one or none; none = no such product, another version than $2, or no such category
-- locks    categories KEY SHARE; products NO KEY UPDATE; to commit
-- waits    on categories, products for the category's deletion, and checkouts, edits and stock moves of the product;
--          55P03 after lock_timeout -> busy
-- index    products_pkey, categories_pkey
-- rows     0..1
-- guards   never products_category_fkey -> category_in_use
UPDATE products
SET
    name = coalesce($3, name),
    description = coalesce($4, description),
    price_minor = coalesce($5, price_minor),
    category_id = CASE WHEN $6 THEN $7 ELSE category_id END,
    active = coalesce($8, active),
    max_per_order = CASE WHEN $9 THEN $10 ELSE max_per_order END,
    version = version + 1,
    updated_at = now()
WHERE
    id = $1
    AND ($2::integer IS NULL OR version = $2)
    AND ($7::bigint IS NULL OR EXISTS (SELECT FROM categories WHERE categories.id = $7 FOR KEY SHARE))
RETURNING
    id,
    name,
    description,
    category_id,
    price_minor,
    currency,
    stock,
    active,
    max_per_order,
    version,
    created_at,
    updated_at;
