-- sweep/claim_refunds: take refunds that Stripe has not settled yet, each put off before it is tried.
--
-- callers  service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many in no order; none = nothing is due
-- locks    refunds NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    refunds_due, refunds_pkey
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH due AS MATERIALIZED (
    SELECT id
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
-- As an array, as a join with so many rows as LIMIT lets a generic plan expect would read the table whole.
WHERE id = any(array(SELECT id FROM due))
RETURNING order_id;
