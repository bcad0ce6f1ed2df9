-- Loses the references of carts and orders.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders DROP COLUMN reference;
ALTER TABLE carts DROP COLUMN reference;
