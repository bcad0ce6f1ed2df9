-- access/revoke_tokens: refuse all access tokens of a person that were issued until now.
--
-- callers  service.shop.access.revoke_tokens
-- param    $1 subject text
-- returns  none
-- locks    token_revocations NO KEY UPDATE; new token_revocations; to commit
-- waits    on token_revocations for another revocation of the same person; 55P03 after lock_timeout -> busy
-- index    token_revocations_pkey
-- rows     1
-- guards   none
INSERT INTO token_revocations (subject)
VALUES ($1)
ON CONFLICT (subject) DO UPDATE SET revoked_at = now();
