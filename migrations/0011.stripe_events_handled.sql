-- Handled events, oldest first, for retention.
--
-- depends: 0010.carts_never_ordered
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stripe_events while it is built: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; retention then reads all events

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS stripe_events_handled;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stripe_events_handled ON stripe_events (handled_at) WHERE handled_at IS NOT NULL;
