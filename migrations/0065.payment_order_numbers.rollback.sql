-- Loses the copies of the orders' numbers beside their payments.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE payments DROP COLUMN order_number;
