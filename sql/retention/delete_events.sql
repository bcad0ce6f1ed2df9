-- retention/delete_events: delete events that were handled long ago, a batch at a time, oldest first.
-- By place (ctid), so that only the locked version is deleted.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    stripe_events UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    stripe_events_handled
-- rows     0..100 by service.shop.retention.BATCH, usually 0
-- guards   none
DELETE FROM stripe_events
WHERE ctid = any(array(
    SELECT ctid
    FROM stripe_events
    WHERE handled_at < now() - make_interval(days => $1)
    ORDER BY handled_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
));
