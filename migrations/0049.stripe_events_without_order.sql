-- Events by what they name: an order, a payment, an e-mail address. Not those that paid their order, which has the
-- address then. Others have no order, or one that never got the address: its customer did not pay, or paid too late.
--
-- depends: 0047.idempotency_keys_by_order
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stripe_events during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each `erase` then reads all events

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS stripe_events_by_person;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stripe_events_by_person ON stripe_events USING gin ((ARRAY[
    payload #>> '{data,object,metadata,order_id}',
    payload #>> '{data,object,client_reference_id}',
    payload #>> '{data,object,payment_intent}',
    lower(payload #>> '{data,object,customer_details,email}'),
    lower(payload #>> '{data,object,customer_email}'),
    lower(payload #>> '{data,object,billing_details,email}'),
    lower(payload #>> '{data,object,receipt_email}')
]))
WHERE
order_id IS NULL
OR outcome IS DISTINCT FROM 'applied'
OR payload #>> '{data,object,payment_status}' IS DISTINCT FROM 'paid';

-- Statistics would copy addresses.
ALTER INDEX stripe_events_by_person ALTER COLUMN 1 SET STATISTICS 0;
