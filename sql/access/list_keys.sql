-- access/list_keys: all service keys, also those that were revoked.
--
-- callers  service.shop.access.list_keys
-- returns  many by id; none = no key was ever added
-- locks    none
-- waits    none
-- index    api_keys_pkey
-- rows     0..n, usually 10
-- guards   none
SELECT
    name,
    prefix,
    scopes,
    created_at,
    created_by,
    expires_at,
    revoked_at
FROM api_keys
ORDER BY id;
