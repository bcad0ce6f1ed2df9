-- Loses why staff refunded, and why refunds failed.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE refunds DROP COLUMN reason;
ALTER TABLE refunds DROP COLUMN failure_reason;

DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        REVOKE SELECT ON refunds FROM commerce_readonly;
        GRANT SELECT ON refunds TO commerce_readonly;
    END IF;
END
$$;
