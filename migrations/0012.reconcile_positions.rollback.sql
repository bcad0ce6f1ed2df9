-- Loses how far Stripe's lists have been read; created again, the position starts at that time.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE reconcile_positions;
