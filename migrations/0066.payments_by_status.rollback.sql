-- Loses the index and no data; each list of payments of one status then reads all payments.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS payments_by_status;
