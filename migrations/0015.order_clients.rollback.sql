-- Loses the clients of orders; code that limits pending orders no longer runs.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders DROP COLUMN client;
