-- deliveries/switch_off: switch an endpoint off. No events are written for it until staff switch it on again.
--
-- callers  service.shop.deliveries._Sender._switch_off
-- param    $1 endpoint_id bigint
-- returns  one or none; none = it is off already
-- locks    event_endpoints NO KEY UPDATE; to commit
-- waits    on event_endpoints for staff who change the endpoint; 55P03 after lock_timeout -> busy
-- index    event_endpoints_active
-- rows     0..1
-- guards   none
UPDATE event_endpoints
SET
    active = false,
    updated_at = now()
WHERE id = $1 AND active
RETURNING id;
