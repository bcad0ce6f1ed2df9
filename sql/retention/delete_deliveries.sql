-- retention/delete_deliveries: delete outgoing events that were delivered or given up long ago, oldest first.
-- By place (ctid), so that only the locked version is deleted: one that staff resend meanwhile stays.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    event_deliveries UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    event_deliveries_finished
-- rows     0..1000 by service.shop.retention.EVENT_BATCH, usually 0
-- guards   none
DELETE FROM event_deliveries
WHERE ctid = any(array(
    SELECT ctid
    FROM event_deliveries
    WHERE finished_at < now() - make_interval(days => $1)
    ORDER BY finished_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
));
