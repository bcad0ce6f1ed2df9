-- Loses the index and no data; each fulfilment then reads all unhandled events.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS stripe_events_unhandled_by_payment;
