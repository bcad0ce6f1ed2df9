-- retention/delete_unsent: delete the events that an endpoint which is switched off has not received for so long.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 endpoint_id bigint
-- param    $2 days integer
-- param    $3 limit bigint
-- returns  none
-- locks    event_deliveries UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    event_deliveries_due
-- rows     0..1000 by service.shop.retention.EVENT_BATCH, usually 0
-- guards   none
DELETE FROM event_deliveries
WHERE ctid = any(array(
    SELECT ctid
    FROM event_deliveries
    WHERE endpoint_id = $1 AND next_attempt_at < now() - make_interval(days => $2)
    ORDER BY next_attempt_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
));
