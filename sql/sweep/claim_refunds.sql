-- sweep/claim_refunds: take refunds that Stripe has not settled yet, each put off before it is tried.
--
-- caller   service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many, in no order; none = nothing is due
-- locks    due rows, FOR NO KEY UPDATE SKIP LOCKED, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    refunds_due, refunds_pkey
-- rows     0..100, usually 0
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
    attempts = refunds.attempts + 1,
    next_attempt_at = now() + least(interval '1 hour', interval '10 seconds' * 2 ^ least(refunds.attempts, 12))
FROM due
WHERE refunds.id = due.id
RETURNING
    refunds.order_id;
