-- access/list_revocations: whose access tokens are refused, since a time before which all tokens have expired.
--
-- callers  service.shop.access.list_revocations
-- param    $1 seconds integer
-- returns  many in no order; none = nobody's
-- locks    none
-- waits    none
-- index    token_revocations_by_time
-- rows     0..n, usually 0
-- guards   none
SELECT
    subject,
    extract(EPOCH FROM revoked_at)::double precision AS revoked_at
FROM token_revocations
WHERE revoked_at > now() - make_interval(secs => $1::integer);
