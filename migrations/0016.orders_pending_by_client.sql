-- The pending orders of a client, found without looking at the others.
--
-- depends: 0015.order_clients
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders while it is read: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; each count then reads all pending orders

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE orders VALIDATE CONSTRAINT orders_client_form;

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_client;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_pending_by_client ON orders (client)
WHERE status = 'PENDING_PAYMENT' AND client IS NOT NULL;
