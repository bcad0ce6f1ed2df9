-- catalog/update_category: change a category's name or slug; a null leaves it as it is.
--
-- caller   service.shop.catalog.update_category
-- param    $1 id bigint
-- param    $2 name text
-- param    $3 slug text
-- returns  one or none; none = there is no such category
-- locks    the row, FOR UPDATE as its unique slug may change, to commit
-- waits    for edits of the same category and for products being added to it
-- index    categories_pkey
-- rows     0..1
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
