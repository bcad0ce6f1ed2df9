-- What retention goes by: a cart that was ever ordered stays with its order. And the worker may remove what is old.
-- Carts ordered before this keep a null, which is no harm: retention looks at the orders too.
--
-- depends: 0007.roles
-- phase: expand
-- lock: ACCESS EXCLUSIVE on carts, a moment
-- undo: drops when carts were ordered; the worker removes nothing any more

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
