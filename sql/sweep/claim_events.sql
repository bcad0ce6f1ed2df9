-- sweep/claim_events: take stored events that are not handled yet, each put off before it is tried.
--
-- caller   service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many, in no order; none = nothing is due
-- locks    due events, FOR NO KEY UPDATE SKIP LOCKED, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    stripe_events_due, stripe_events_pkey
-- rows     0..100, usually 0
-- guards   none
UPDATE stripe_events
SET
    attempts = attempts + 1,
    next_attempt_at = now() + least(interval '1 hour', interval '10 seconds' * 2 ^ least(attempts, 12))
WHERE id IN (
    SELECT due.id
    FROM stripe_events AS due
    WHERE due.next_attempt_at <= now()
    ORDER BY due.next_attempt_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING id;
