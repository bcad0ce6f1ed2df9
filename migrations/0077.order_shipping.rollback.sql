-- Loses where orders go; Stripe keeps it at its sessions.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE order_shipping;
