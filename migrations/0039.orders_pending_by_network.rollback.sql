-- Loses the index and no data; each count of a network's pending orders then reads all pending orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_network;
