-- Loses the worker's right to list what is stuck: until it is granted again, such transactions fail.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '1min';

DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE UPDATE (resolved) ON stuck_items FROM commerce_worker;
    END IF;
END
$$;
