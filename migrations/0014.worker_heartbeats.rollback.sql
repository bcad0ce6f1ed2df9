-- Loses the workers' signs of life; the next ones are missed.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE worker_heartbeats;
