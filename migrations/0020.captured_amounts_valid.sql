-- The constraints of 0019 hold for old rows too.
--
-- depends: 0019.captured_amounts
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments while it is read: VACUUM and DDL wait, nobody who reads or writes does
-- undo: declares them not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE payments VALIDATE CONSTRAINT payments_captured_form;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_within_amount;
ALTER TABLE payments VALIDATE CONSTRAINT payments_refunded_whole;
