-- deliveries/mark_failing: record that every attempt at an endpoint fails; whether it has done so for three days.
--
-- callers  service.shop.deliveries._Sender._store
-- param    $1 endpoint_id bigint
-- returns  one or none; none = there is no such endpoint
-- locks    event_leases NO KEY UPDATE; to commit
-- waits    on event_leases for a worker that renews its leases, or staff who switch the endpoint on; 55P03 after
--          lock_timeout -> busy
-- index    event_leases_pkey
-- rows     0..1
-- guards   none
UPDATE event_leases
SET failing_since = coalesce(failing_since, now())
WHERE endpoint_id = $1
RETURNING failing_since < now() - interval '3 days';
