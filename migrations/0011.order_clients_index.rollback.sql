-- Loses nothing.
-- transactional: false

SET lock_timeout = '2s';
SET statement_timeout = '10min';

DROP INDEX CONCURRENTLY orders_pending_by_client;
