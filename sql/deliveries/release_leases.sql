-- deliveries/release_leases: end this run's leases, so that another worker goes on at once.
--
-- callers  service.shop.deliveries.Deliveries.close
-- param    $1 run_id uuid
-- returns  none
-- locks    event_leases NO KEY UPDATE; to commit
-- waits    on event_leases for a worker that renews its leases or records a failure; 55P03 after lock_timeout -> busy
-- index    none; reads whole tables
-- rows     0..20 by service.shop.event_endpoints.MAX_ENDPOINTS, usually 2
-- guards   none
UPDATE event_leases
SET leased_until = '-infinity'
WHERE run_id = $1;
