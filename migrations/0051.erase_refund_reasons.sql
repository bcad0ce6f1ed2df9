-- What staff wrote about a refund is erased with the order.
--
-- depends: 0049.stripe_events_without_order
-- phase: expand
-- lock: none
-- undo: revokes the right, so that erasing fails

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A block, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT SELECT (reason), UPDATE (reason) ON refunds TO commerce_eraser;
    END IF;
END
$$;
