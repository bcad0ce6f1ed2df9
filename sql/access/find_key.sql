-- access/find_key: a valid service key, by its digest.
--
-- callers  service.shop.access.find_key
-- param    $1 digest bytea
-- returns  one or none; none = no such key, or it was revoked or has expired
-- locks    none
-- waits    none
-- index    api_keys_digest_unique
-- rows     0..1
-- guards   none
SELECT
    name,
    scopes,
    extract(EPOCH FROM expires_at)::double precision AS expires_at
FROM api_keys
WHERE digest = $1 AND revoked_at IS NULL AND expires_at > now();
