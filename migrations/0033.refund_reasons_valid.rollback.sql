-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so each is created again.
ALTER TABLE refunds
DROP CONSTRAINT refunds_reason_length,
DROP CONSTRAINT refunds_failure_reason_form,
ADD CONSTRAINT refunds_reason_length CHECK (char_length(reason) BETWEEN 1 AND 500) NOT VALID,
ADD CONSTRAINT refunds_failure_reason_form CHECK (
    failure_reason IS NULL OR (status = 'FAILED' AND char_length(failure_reason) BETWEEN 1 AND 100)
) NOT VALID;
COMMENT ON COLUMN refunds.reason IS NULL;
COMMENT ON COLUMN refunds.failure_reason IS NULL;
