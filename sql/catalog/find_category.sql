-- catalog/find_category: the id of the category with this slug.
--
-- callers  service.shop.catalog._category_id
-- param    $1 slug text
-- returns  one or none; none = no such slug
-- locks    none
-- waits    none
-- index    categories_slug_unique
-- rows     0..1
-- guards   none
SELECT id
FROM categories
WHERE slug = $1;
