-- Loses the indexes and no data; reading by position then reads all rows.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS order_events_position;
DROP INDEX CONCURRENTLY IF EXISTS stock_movements_position;
