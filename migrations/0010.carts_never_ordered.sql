-- Carts that may be abandoned, oldest first. By created_at, so that an edit changes no index entry (HOT).
--
-- depends: 0009.orders_by_cart
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on carts during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; retention then reads all carts

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS carts_never_ordered;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY carts_never_ordered ON carts (created_at) WHERE ordered_at IS NULL;
