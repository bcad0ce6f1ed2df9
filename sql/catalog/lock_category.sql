-- catalog/lock_category: lock a category for an edit by staff, and read it as it is before.
-- A separate statement, as catalog/lock_product. FOR UPDATE, because the edit may change the slug, which is a key.
--
-- callers  service.shop.catalog.update_category
-- param    $1 category_id bigint
-- returns  one or none; none = no such category
-- locks    categories UPDATE; to commit
-- waits    on categories for edits of the category and products assigned to it; 55P03 after lock_timeout -> busy
-- index    categories_pkey
-- rows     0..1
-- guards   none
SELECT
    id,
    name,
    slug
FROM categories
WHERE id = $1
FOR UPDATE;
