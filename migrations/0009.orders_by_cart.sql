-- All orders of a cart, cancelled ones too: the foreign key searches for them when a cart is deleted.
--
-- depends: 0008.retention
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each deletion of a cart then reads all orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_cart;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_cart ON orders (cart_id);
