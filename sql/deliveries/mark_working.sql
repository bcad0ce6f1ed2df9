-- deliveries/mark_working: record that an endpoint works: after a delivery, or once staff have switched it on.
-- What a failure of less than half an hour held back is delivered within the hour after which it is overdue.
--
-- callers  service.shop.deliveries._Sender._store, service.shop.event_endpoints.update
-- param    $1 endpoint_id bigint
-- param    $2 switched_on boolean
-- returns  none
-- locks    event_leases NO KEY UPDATE; to commit
-- waits    on event_leases for a worker that renews its leases or records a failure; 55P03 after lock_timeout -> busy
-- index    event_leases_pkey
-- rows     0..1
-- guards   none
UPDATE event_leases
SET
    switched_on_at = CASE WHEN $2 THEN now() ELSE switched_on_at END,
    working_since = CASE
        WHEN $2 OR failing_since < now() - interval '30 minutes' THEN now()
        ELSE working_since
    END,
    failing_since = NULL
WHERE endpoint_id = $1;
