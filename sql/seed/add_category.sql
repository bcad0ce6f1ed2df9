-- seed/add_category: add a demo category, or return the one that has its slug.
--
-- callers  service.dev.seed.seed
-- param    $1 name text
-- param    $2 slug text
-- returns  one
-- locks    categories NO KEY UPDATE; new categories; to commit
-- waits    on categories for edits of the category and a run that adds the same slug; 55P03 after lock_timeout -> busy
-- index    categories_slug_unique
-- rows     1
-- guards   none
INSERT INTO categories (name, slug)
VALUES ($1, $2)
ON CONFLICT (slug) DO UPDATE SET name = excluded.name
RETURNING id;
