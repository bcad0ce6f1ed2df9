-- Loses the workers' heartbeats; workers of the new code fail to record theirs.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE worker_heartbeats;
