-- catalog/find_category: the category behind a slug.
--
-- callers  service.shop.catalog._read_page
-- param    $1 slug text
-- returns  one or none; none = there is no such slug
-- locks    none
-- waits    none
-- index    categories_slug_unique
-- rows     0..1
-- guards   none
SELECT id
FROM categories
WHERE slug = $1;
