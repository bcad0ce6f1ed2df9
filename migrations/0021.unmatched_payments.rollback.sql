-- Loses which payments matched no order; of those still to be refunded, nobody knows any more.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE unmatched_payments;
