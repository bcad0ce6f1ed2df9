-- Unhandled events by their payment intent: an order is not fulfilled while one of its events is unhandled.
--
-- depends: 0012.reconcile_positions
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stripe_events during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each fulfilment then reads all unhandled events

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS stripe_events_unhandled_by_payment;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stripe_events_unhandled_by_payment
ON stripe_events ((payload #>> '{data,object,payment_intent}')) WHERE handled_at IS NULL;
