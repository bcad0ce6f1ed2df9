-- sweep/delete_events: remove events that were handled long ago, a batch at a time, oldest first.
--
-- caller   service.shop.sweep.tidy
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    the events, FOR NO KEY UPDATE SKIP LOCKED, then FOR UPDATE to delete them, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    stripe_events_handled, stripe_events_pkey
-- rows     0..100, usually 0
-- guards   none
WITH old AS MATERIALIZED (
    SELECT id
    FROM stripe_events
    WHERE handled_at < now() - make_interval(days => $1)
    ORDER BY handled_at
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)

DELETE FROM stripe_events
USING old
WHERE stripe_events.id = old.id;
