-- Loses the index and no data; each audit then reads all refunds.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS refunds_open;
