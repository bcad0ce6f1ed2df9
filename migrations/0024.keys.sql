-- Primary keys that statements use, and session parameters that end.
-- No statement searches for a payment, an event or a movement by its id alone: nine index entries less a purchase.
-- The parameters of a session, a kilobyte, are needed until it is attached or its payment ends.
--
-- depends: 0023.new_keys
-- phase: expand
-- lock: ACCESS EXCLUSIVE on payments, order_events and stock_movements, briefly: the indexes exist already
-- undo: builds the old indexes while writers of the three tables wait; deleted parameters become empty

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE payments
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT payments_pkey,
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT payments_one_per_order,
ADD CONSTRAINT payments_one_per_order PRIMARY KEY USING INDEX payments_new_key,
-- squawk-ignore ban-drop-not-null
ALTER COLUMN session_parameters DROP NOT NULL,
ADD CONSTRAINT payments_parameters_until_attached CHECK (
    session_parameters IS NOT NULL OR stripe_session_id IS NOT NULL OR status <> 'INITIATED'
) NOT VALID;

ALTER TABLE order_events
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT order_events_pkey,
ADD CONSTRAINT order_events_pkey PRIMARY KEY USING INDEX order_events_new_key;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX order_events_by_order;

ALTER TABLE stock_movements
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT stock_movements_pkey,
ADD CONSTRAINT stock_movements_pkey PRIMARY KEY USING INDEX stock_movements_new_key;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX stock_movements_by_product;

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT UPDATE (session_parameters) ON payments TO commerce_worker;
    END IF;
END
$$;
