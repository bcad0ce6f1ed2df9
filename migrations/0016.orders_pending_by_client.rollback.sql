-- Loses the index and no data; each count of a client's pending orders then reads all pending orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_client;

-- A validated constraint cannot be marked as not validated, so it is created again. One statement: stopped after a
-- DROP, this could run again, but the migration itself could not.
SET lock_timeout = '2s';
ALTER TABLE orders
DROP CONSTRAINT IF EXISTS orders_client_form,
ADD CONSTRAINT orders_client_form CHECK (octet_length(client) = 16) NOT VALID;
