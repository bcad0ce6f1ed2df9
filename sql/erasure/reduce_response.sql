-- erasure/reduce_response: replace a stored response by the part that is not personal.
-- The key stays, because a repeated request must not take effect again.
--
-- callers  service.shop.erasure._erase
-- param    $1 key_id bytea
-- param    $2 answer bytea
-- returns  none
-- locks    idempotency_keys NO KEY UPDATE; to commit
-- waits    for nothing: erasure/lock_responses has locked the key
-- index    idempotency_keys_pkey
-- rows     0..1
-- guards   none
UPDATE idempotency_keys
SET answer = $2
WHERE id = $1;
