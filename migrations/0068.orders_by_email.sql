-- Orders by the hash of their e-mail address and by their number, in place of the hash alone.
-- Searches of staff read an address's newest orders in it. It also serves what the old index serves, in old code too:
-- a purchase writes to one index, as before.
--
-- depends: 0067.products_inactive
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders during the build: VACUUM and DDL wait, reads and writes do not
-- undo: builds the old index again and drops the new one; each search for an e-mail address then sorts all its orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_email;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_email ON orders (email_digest, number) WHERE email IS NOT NULL;

DROP INDEX CONCURRENTLY IF EXISTS orders_by_email_digest;
