-- sweep/claim_events: take stored events that are not handled yet, each put off before it is tried.
--
-- caller   service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many, in no order; none = nothing is due
-- locks    due rows, FOR NO KEY UPDATE SKIP LOCKED, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    stripe_events_due, stripe_events_pkey
-- rows     0..100, usually 0
-- guards   none
WITH due AS MATERIALIZED (
    SELECT id
    FROM stripe_events
    WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE stripe_events
SET
    attempts = stripe_events.attempts + 1,
    next_attempt_at = now() + least(interval '1 minute', interval '10 seconds' * 2 ^ least(stripe_events.attempts, 12))
FROM due
WHERE stripe_events.id = due.id
RETURNING
    stripe_events.id;
