-- Loses how far Stripe's lists have been gone through: made again, the table begins at that moment.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE reconcile_positions;
