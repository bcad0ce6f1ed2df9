-- One product for each sku.
-- Validates what 0061 says of old rows.
--
-- depends: 0061.product_skus
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on products during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; two products may then have one sku

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE products VALIDATE CONSTRAINT products_sku_form;
ALTER TABLE products VALIDATE CONSTRAINT products_image_url_form;

-- A unique index without a condition would make the sku a key of the row. A change of it would take a stronger lock
-- than the edit took before, and such a second step can deadlock with the key locks of orders.
-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS products_sku_unique;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE UNIQUE INDEX CONCURRENTLY products_sku_unique ON products (sku) WHERE sku IS NOT NULL;
