-- Loses the index and no data; retention then reads all carts.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS carts_never_ordered;
