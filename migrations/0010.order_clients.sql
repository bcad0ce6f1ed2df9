-- Who placed an order, to count the pending ones of each client by.
--
-- depends: 0003.orders
-- phase: expand
-- lock: ACCESS EXCLUSIVE on orders, a moment: the column has no default, and old rows are not looked at
-- undo: drops it; pending orders are then counted by nobody

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A digest under a secret, not the address: that would be a person's, kept for ever.
ALTER TABLE orders ADD COLUMN client bytea;
ALTER TABLE orders ADD CONSTRAINT orders_client_form CHECK (octet_length(client) = 16) NOT VALID;
