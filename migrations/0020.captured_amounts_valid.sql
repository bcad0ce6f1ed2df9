-- Validates the constraints of 0019 for old rows.
--
-- depends: 0019.captured_amounts
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE payments VALIDATE CONSTRAINT payments_captured_form;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_within_amount;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_whole;
