-- catalog/create_category: add a category.
--
-- caller   service.shop.catalog.create_category
-- param    $1 name text
-- param    $2 slug text
-- returns  one
-- locks    the new row, to commit
-- waits    for another insert of the same slug
-- index    none
-- rows     1
-- guards   categories_slug_unique -> slug_taken
INSERT INTO categories (name, slug)
VALUES ($1, $2)
RETURNING
    id,
    name,
    slug;
