-- The API stores an event together with its outcome.
--
-- depends: 0016.orders_pending_by_client
-- phase: expand
-- lock: none
-- undo: revokes the right; code that stores an event with its outcome is refused

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (outcome, order_id, handled_at) ON stripe_events TO commerce_app;
    END IF;
END
$$;
