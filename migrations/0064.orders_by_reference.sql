-- Orders by their reference. Orders without one cost nothing here.
-- Validates what 0063 says of old rows.
--
-- depends: 0063.references
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on carts and orders during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each search for a reference then reads all orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE carts VALIDATE CONSTRAINT carts_reference_form;
ALTER TABLE orders VALIDATE CONSTRAINT orders_reference_form;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_reference;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_reference ON orders (reference, number) WHERE reference IS NOT NULL;
