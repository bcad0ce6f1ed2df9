-- Loses the index and no data; each `erase` then reads all events.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS stripe_events_by_person;
