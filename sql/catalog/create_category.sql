-- catalog/create_category: add a category.
--
-- callers  service.shop.catalog.create_category
-- param    $1 name text
-- param    $2 slug text
-- returns  one
-- locks    new categories; to commit
-- waits    on categories for another category with the same slug; 55P03 after lock_timeout -> busy
-- index    none
-- rows     1
-- guards   categories_slug_unique -> slug_taken
INSERT INTO categories (name, slug)
VALUES ($1, $2)
RETURNING
    id,
    name,
    slug;
