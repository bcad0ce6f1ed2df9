-- catalog/list_categories: a page of categories by id.
--
-- callers  service.shop.catalog.list_categories
-- param    $1 after_id bigint
-- param    $2 limit bigint
-- returns  many by id; none = no category after $1
-- locks    none
-- waits    none
-- index    categories_pkey
-- rows     0..1001 by LIMIT $2, usually 10
-- guards   none
SELECT
    id,
    name,
    slug
FROM categories
WHERE id > $1
ORDER BY id
LIMIT $2;
