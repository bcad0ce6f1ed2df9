-- Loses who did it; the causes stay.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE order_events DROP COLUMN actor;
ALTER TABLE stock_movements DROP COLUMN actor;
ALTER TABLE refunds DROP COLUMN actor;

DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        REVOKE SELECT ON stock_movements FROM commerce_readonly;
        GRANT SELECT ON stock_movements TO commerce_readonly;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        REVOKE ALL ON stock_movements FROM commerce_eraser;
    END IF;
END
$$;
