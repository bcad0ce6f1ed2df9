-- The pending orders of a client, found without looking at the others.
--
-- depends: 0010.order_clients
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders while the table is read; nobody waits for it but other migrations
-- undo: drops the index; the count then reads all pending orders
-- transactional: false

SET lock_timeout = '2s';
SET statement_timeout = '10min';

ALTER TABLE orders VALIDATE CONSTRAINT orders_client_form;

-- One that failed half-way is in the way of the next try.
DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_client;
-- In no transaction, as the header says.
-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_pending_by_client ON orders (client)
WHERE status = 'PENDING_PAYMENT' AND client IS NOT NULL;
