-- retention/delete_events: delete events that were handled long ago, a batch at a time, oldest first.
-- An array, because the planner takes an unknown LIMIT for a long list and would join it by reading the whole table.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    stripe_events UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    stripe_events_handled, stripe_events_pkey
-- rows     0..100 by service.shop.retention.BATCH, usually 0
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
