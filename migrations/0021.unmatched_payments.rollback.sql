-- Loses the payments that match no order, and with them which are still to be refunded.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE unmatched_payments;
