-- Loses the index and no data; each `erase` then reads all keys.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS idempotency_keys_by_order;
