-- Loses the index and no data; each list of products that are off sale then reads all products.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS products_inactive;
