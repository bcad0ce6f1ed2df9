-- deliveries/mark_working: record that an endpoint works: after a delivery, or once staff have switched it on.
--
-- callers  service.shop.deliveries._Sender._store, service.shop.event_endpoints.update
-- param    $1 endpoint_id bigint
-- returns  none
-- locks    event_leases NO KEY UPDATE; to commit
-- waits    on event_leases for a worker that renews its leases or records a failure; 55P03 after lock_timeout -> busy
-- index    event_leases_pkey
-- rows     0..1
-- guards   none
UPDATE event_leases
SET
    working_since = now(),
    failing_since = NULL
WHERE endpoint_id = $1;
