-- Refunds by the time of their last change, for the audit.
--
-- depends: 0040.audit_by_position
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on refunds during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each audit then reads all refunds

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS refunds_changed;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY refunds_changed ON refunds (updated_at);
