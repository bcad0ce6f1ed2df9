-- Loses the keys: a request repeated after that is done again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE idempotency_keys;
