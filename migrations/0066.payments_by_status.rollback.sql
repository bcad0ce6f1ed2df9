-- Loses the index and the copies of the orders' numbers; each list of payments of one status then reads all payments.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS payments_by_status;

UPDATE payments SET order_number = NULL
WHERE order_number IS NOT NULL;
