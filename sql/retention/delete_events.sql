-- retention/delete_events: remove events that were handled long ago, a batch at a time, oldest first.
-- An array, as the planner would take a list of unknown length for a long one, and read the table whole to join it.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    stripe_events UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    stripe_events_handled, stripe_events_pkey
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
DELETE FROM stripe_events
WHERE id = any(array(
    SELECT id
    FROM stripe_events
    WHERE handled_at < now() - make_interval(days => $1)
    ORDER BY handled_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
));
