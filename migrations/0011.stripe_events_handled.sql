-- Handled events, oldest first, for retention.
--
-- depends: 0010.carts_never_ordered
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stripe_events during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; retention then reads all events

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS stripe_events_handled;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stripe_events_handled ON stripe_events (handled_at) WHERE handled_at IS NOT NULL;
