-- catalog/update_category: change a category's name or slug; null leaves a column unchanged.
--
-- callers  service.shop.catalog.update_category
-- param    $1 category_id bigint
-- param    $2 name text null
-- param    $3 slug text null
-- returns  one
-- locks    categories UPDATE; to commit
-- waits    for nothing: catalog/lock_category has locked the category; only another one that takes the same slug at
--          the same moment may delay it
-- index    categories_pkey
-- rows     1
-- guards   categories_slug_unique -> slug_taken
UPDATE categories
SET
    name = coalesce($2, name),
    slug = coalesce($3, slug)
WHERE id = $1
RETURNING
    id,
    name,
    slug;
