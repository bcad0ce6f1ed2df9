-- Loses the indexes and no data.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS payments_new_key;
DROP INDEX CONCURRENTLY IF EXISTS order_events_new_key;
DROP INDEX CONCURRENTLY IF EXISTS stock_movements_new_key;
