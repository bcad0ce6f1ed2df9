-- Loses the index, and no data; each cart that is removed then reads all orders

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_cart;
