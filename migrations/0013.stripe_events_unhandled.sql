-- Events that are still to be handled, by the payment they are about: an order waits with its fulfilment for them.
--
-- depends: 0012.reconcile_positions
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stripe_events while it is built: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; each fulfilment then reads all unhandled events

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS stripe_events_unhandled_by_payment;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stripe_events_unhandled_by_payment
ON stripe_events ((payload #>> '{data,object,payment_intent}')) WHERE handled_at IS NULL;
