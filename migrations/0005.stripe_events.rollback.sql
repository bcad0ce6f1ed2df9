-- Loses the stored events; Stripe keeps its own for 30 days.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE stripe_events;
