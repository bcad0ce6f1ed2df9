-- A user's own orders.
-- Validates what 0058 says of old rows.
--
-- depends: 0059.carts_by_user
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each list of a user's own then reads all orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE orders VALIDATE CONSTRAINT orders_user_id_form;
ALTER TABLE orders VALIDATE CONSTRAINT orders_claimed_has_owner;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_user;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_user ON orders (user_id, number) WHERE user_id IS NOT NULL;
