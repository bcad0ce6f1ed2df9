-- The client that placed an order, to limit the pending orders of each client.
--
-- depends: 0014.worker_heartbeats
-- phase: expand
-- lock: ACCESS EXCLUSIVE on orders, briefly: the column has no default, and old rows are not read
-- undo: drops the column; code that limits pending orders no longer runs

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A keyed digest of the address, because the address itself is personal data and orders stay for ever.
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
