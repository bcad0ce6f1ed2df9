-- The constraints of 0019 hold for old rows too, and payments of another amount are found without reading the others.
--
-- depends: 0019.captured_amounts
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments while it is read: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; the audit then reads all payments for it

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE payments VALIDATE CONSTRAINT payments_captured_form;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_within_amount;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_whole;

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS payments_captured_otherwise;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY payments_captured_otherwise ON payments (order_id) WHERE captured_minor IS NOT NULL;
