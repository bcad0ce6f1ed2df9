-- catalog/delete_category: delete a category that no product uses.
--
-- callers  service.shop.catalog.delete_category
-- param    $1 category_id bigint
-- returns  one or none; none = no such category
-- locks    categories UPDATE; to commit
-- waits    on categories for edits of the category and products assigned to it; 55P03 after lock_timeout -> busy
-- index    categories_pkey
-- rows     0..1
-- guards   products_category_fkey -> category_in_use
DELETE FROM categories
WHERE id = $1
RETURNING
    id,
    name,
    slug;
