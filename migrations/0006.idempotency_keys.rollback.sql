-- Loses the keys, so that a repeated request takes effect again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE idempotency_keys;
