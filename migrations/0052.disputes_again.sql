-- Lets the worker list a dispute again that people had resolved.
--
-- depends: 0051.erase_refund_reasons
-- phase: expand
-- lock: none
-- undo: takes the right back, so that the worker cannot list anything

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '1min';

-- A block, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT UPDATE (resolved) ON stuck_items TO commerce_worker;
    END IF;
END
$$;
