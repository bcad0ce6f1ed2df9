-- Loses the index, and no data; each count of a client's pending orders then reads all that are pending.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_pending_by_client;
