-- Who placed an order, to count the pending ones of each client by.
--
-- depends: 0014.worker_heartbeats
-- phase: expand
-- lock: ACCESS EXCLUSIVE on orders, a moment: the column has no default, and old rows are not looked at
-- undo: drops it; nobody's pending orders are counted any more

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A digest under a secret, not the address: that would be a person's, kept for ever.
ALTER TABLE orders ADD COLUMN client bytea;
ALTER TABLE orders ADD CONSTRAINT orders_client_form CHECK (octet_length(client) = 16) NOT VALID;

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (client) ON orders TO commerce_app;
    END IF;
END
$$;
