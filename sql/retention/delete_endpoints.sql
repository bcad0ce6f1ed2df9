-- retention/delete_endpoints: delete the rows of endpoints that staff deleted, once their events are gone.
-- An hour later, because a transition under way may still write an event.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 limit bigint
-- returns  none
-- locks    event_endpoints UPDATE SKIP LOCKED; event_leases UPDATE; to commit
-- waits    on event_leases for a worker that renews its leases or records a failure; 55P03 after lock_timeout -> busy
-- index    none; reads whole tables
-- rows     0..100 by service.shop.retention.BATCH, usually 0
-- guards   none
DELETE FROM event_endpoints
WHERE ctid = any(array(
    SELECT ctid
    FROM event_endpoints
    WHERE
        deleted_at < now() - interval '1 hour'
        AND NOT EXISTS (SELECT FROM event_deliveries WHERE endpoint_id = event_endpoints.id)
    ORDER BY id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
));
