-- Validates the constraints of 0032 for old rows.
--
-- depends: 0032.refund_reasons
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on refunds while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE refunds VALIDATE CONSTRAINT refunds_reason_length;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_failure_reason_form;
COMMENT ON COLUMN refunds.reason IS 'Why staff made the refund, in their words.';
COMMENT ON COLUMN refunds.failure_reason IS 'Why the refund failed, in Stripe''s word. Null unless it failed.';
