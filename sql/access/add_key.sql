-- access/add_key: store a new service key; a name is used once, even after the key was revoked.
--
-- callers  service.shop.access.add_key
-- param    $1 name text
-- param    $2 prefix text
-- param    $3 digest bytea
-- param    $4 scopes text[]
-- param    $5 days integer
-- param    $6 created_by text
-- returns  none
-- locks    new api_keys; to commit
-- waits    on api_keys for another new key of the same name; 55P03 after lock_timeout -> busy
-- index    api_keys_name_unique
-- rows     0..1
-- guards   none
INSERT INTO api_keys (name, prefix, digest, scopes, expires_at, created_by)
VALUES ($1, $2, $3, $4, now() + make_interval(days => $5), $6)
ON CONFLICT (name) DO NOTHING;
