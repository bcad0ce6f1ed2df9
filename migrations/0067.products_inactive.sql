-- Products that are off sale, by id, for staff. Stock is in no index, so that a sale changes none.
--
-- depends: 0066.payments_by_status
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on products during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each list of products that are off sale then reads all products

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS products_inactive;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY products_inactive ON products (id) WHERE NOT active;
