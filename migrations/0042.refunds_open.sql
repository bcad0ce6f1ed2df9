-- Refunds that have not ended, for the audit.
--
-- depends: 0041.refunds_changed
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on refunds during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each audit then reads all refunds

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS refunds_open;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY refunds_open ON refunds (created_at) WHERE status IN ('REQUESTED', 'PENDING');
