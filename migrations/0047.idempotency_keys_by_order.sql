-- The stored responses about an order, to erase personal data in them.
--
-- depends: 0046.orders_by_email_digest
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on idempotency_keys during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each `erase` then reads all keys

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS idempotency_keys_by_order;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY idempotency_keys_by_order ON idempotency_keys (order_id) WHERE order_id IS NOT NULL;
