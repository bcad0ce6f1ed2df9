-- Loses the right to erase what staff wrote about refunds.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DO $$
BEGIN
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        REVOKE SELECT (reason), UPDATE (reason) ON refunds FROM commerce_eraser;
    END IF;
END
$$;
