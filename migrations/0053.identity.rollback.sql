-- Loses all service keys and revocations: revoked access tokens are accepted until they expire.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE token_revocations;
DROP TABLE api_keys;
