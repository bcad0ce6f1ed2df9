-- catalog/update_product: an edit by staff; null leaves a column unchanged, a set_… says whether the next one applies.
--
-- callers  service.shop.catalog._update
-- param    $1 product_id bigint
-- param    $2 name text null
-- param    $3 description text null
-- param    $4 price_minor bigint null
-- param    $5 set_category boolean
-- param    $6 category_id bigint null
-- param    $7 active boolean null
-- param    $8 set_sku boolean
-- param    $9 sku text null
-- param    $10 set_image_url boolean
-- param    $11 image_url text null
-- param    $12 set_max_per_order boolean
-- param    $13 max_per_order integer null
-- returns  one or none; none = no such category
-- locks    categories KEY SHARE; products NO KEY UPDATE; to commit
-- waits    on categories for the category's deletion or a new slug of it; 55P03 after lock_timeout -> busy;
--          catalog/lock_product has locked the product; only another one that takes this sku may delay it
-- index    products_pkey, categories_pkey
-- rows     0..1
-- guards   products_sku_unique -> sku_taken, never products_category_fkey -> category_in_use
UPDATE products
SET
    name = coalesce($2, name),
    description = coalesce($3, description),
    price_minor = coalesce($4, price_minor),
    category_id = CASE WHEN $5 THEN $6 ELSE category_id END,
    active = coalesce($7, active),
    sku = CASE WHEN $8 THEN $9 ELSE sku END,
    image_url = CASE WHEN $10 THEN $11 ELSE image_url END,
    max_per_order = CASE WHEN $12 THEN $13 ELSE max_per_order END,
    version = version + 1,
    updated_at = now()
WHERE
    id = $1
    AND ($6::bigint IS NULL OR EXISTS (SELECT FROM categories WHERE categories.id = $6 FOR KEY SHARE))
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
    updated_at;
