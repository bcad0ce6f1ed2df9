-- sweep/claim_refunds: claim refunds that are due, and defer each before it is tried.
--
-- callers  service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many in no order; none = nothing is due
-- locks    refunds NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    refunds_due
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH due AS MATERIALIZED (
    SELECT ctid
    FROM refunds
    WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE refunds
SET
    attempts = attempts + 1,
    next_attempt_at = now() + least(interval '1 hour', interval '10 seconds' * 2 ^ least(attempts, 12))
-- By place: a row that has changed since this statement began has another one, and waits for the next sweep. By key,
-- its old version would be updated, which can deadlock beside a foreign key's KEY SHARE.
WHERE ctid = any(array(SELECT ctid FROM due))
RETURNING
    id,
    order_id;
