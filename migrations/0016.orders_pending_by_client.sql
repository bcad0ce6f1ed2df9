-- The pending orders of a client, found without reading other orders.
--
-- depends: 0015.order_clients
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each count then reads all pending orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE orders VALIDATE CONSTRAINT orders_client_form;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_client;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_pending_by_client ON orders (client)
WHERE status = 'PENDING_PAYMENT' AND client IS NOT NULL;
