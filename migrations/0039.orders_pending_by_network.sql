-- The pending orders of a client's network, found without reading other orders.
--
-- depends: 0038.texts_and_limits_valid
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each count then reads all pending orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_network;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_pending_by_network ON orders (client_network)
WHERE status = 'PENDING_PAYMENT' AND client_network IS NOT NULL;
