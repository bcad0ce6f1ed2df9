-- Loses the index and no data; each deletion of a cart then reads all orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_cart;
