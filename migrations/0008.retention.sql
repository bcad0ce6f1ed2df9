-- A cart that was ordered stays with its order. The worker may delete other old carts, and old events.
-- Carts ordered before this migration keep a null, so retention checks the orders too.
--
-- depends: 0007.roles
-- phase: expand
-- lock: ACCESS EXCLUSIVE on carts, briefly
-- undo: drops when carts were ordered; the worker deletes no more carts and events

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE carts ADD COLUMN ordered_at timestamptz;

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT UPDATE (ordered_at) ON carts TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT DELETE ON carts, stripe_events TO commerce_worker;
    END IF;
END
$$;
