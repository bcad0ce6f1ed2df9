-- The indexes of the keys that 0024 puts in place: of payments, of an order's history and of a product's ledger.
--
-- depends: 0022.readiness
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments, order_events, stock_movements during each build: VACUUM and DDL wait
-- undo: drops the indexes

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS payments_new_key;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE UNIQUE INDEX CONCURRENTLY payments_new_key ON payments (order_id);

DROP INDEX CONCURRENTLY IF EXISTS order_events_new_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE UNIQUE INDEX CONCURRENTLY order_events_new_key ON order_events (order_id, id);

DROP INDEX CONCURRENTLY IF EXISTS stock_movements_new_key;

-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE UNIQUE INDEX CONCURRENTLY stock_movements_new_key ON stock_movements (product_id, id);
