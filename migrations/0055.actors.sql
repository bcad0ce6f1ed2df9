-- Who did it, beside the cause of each entry: a customer, Stripe, staff, a key, a job or a command.
-- Null in old rows, and in those that the older code writes while this version is deployed.
--
-- depends: 0053.identity
-- phase: expand
-- lock: ACCESS EXCLUSIVE on order_events, stock_movements, refunds, briefly: the columns have no default, and old rows
--       are not read
-- undo: drops the columns; the causes stay

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE order_events
ADD COLUMN actor text,
ADD CONSTRAINT order_events_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID,
-- ANALYZE copies some of a column's values into the statistics, where nobody would erase them.
ALTER COLUMN actor SET STATISTICS 0;
ALTER TABLE stock_movements
ADD COLUMN actor text,
ADD CONSTRAINT stock_movements_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID,
ALTER COLUMN actor SET STATISTICS 0;
ALTER TABLE refunds
ADD COLUMN actor text,
ADD CONSTRAINT refunds_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID,
ALTER COLUMN actor SET STATISTICS 0;
COMMENT ON COLUMN order_events.actor IS
'Who did it: customer, stripe, admin, open, or user:, key:, job: or command: with a name. Null in rows of older code.';
COMMENT ON COLUMN stock_movements.actor IS 'Who moved the units, as in order_events. Null in rows of older code.';
COMMENT ON COLUMN refunds.actor IS 'Who decided the refund, as in order_events. Null in rows of older code.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (actor) ON order_events, stock_movements, refunds TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT INSERT (actor) ON order_events, stock_movements, refunds TO commerce_worker;
    END IF;
    -- A user may be a customer: erasing an order leaves `user:erased`.
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT SELECT (actor), INSERT (actor), UPDATE (actor) ON order_events TO commerce_eraser;
        GRANT SELECT (actor), UPDATE (actor) ON refunds TO commerce_eraser;
        GRANT SELECT (order_id, actor), UPDATE (actor) ON stock_movements TO commerce_eraser;
    END IF;
    -- For the same reason readers do not see it.
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        REVOKE SELECT ON stock_movements FROM commerce_readonly;
        GRANT SELECT (id, product_id, delta, reason, order_id, hold, created_at) ON stock_movements
        TO commerce_readonly;
    END IF;
END
$$;
