-- Loses the list of what is stuck, and what people have resolved.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE stuck_items;
