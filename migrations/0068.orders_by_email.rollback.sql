-- Loses the new index and no data; each search for an e-mail address then sorts all its orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_email_digest;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_email_digest ON orders (email_digest) WHERE email IS NOT NULL;

DROP INDEX CONCURRENTLY IF EXISTS orders_by_email;
