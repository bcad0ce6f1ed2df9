-- access/revoke_key: revoke a service key.
--
-- callers  service.shop.access.revoke_key
-- param    $1 name text
-- returns  none
-- locks    api_keys NO KEY UPDATE; to commit
-- waits    on api_keys for the same revocation; 55P03 after lock_timeout -> busy
-- index    api_keys_name_unique
-- rows     0..1
-- guards   none
UPDATE api_keys
SET revoked_at = now()
WHERE name = $1 AND revoked_at IS NULL;
