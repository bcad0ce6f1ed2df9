-- event_endpoints/lock_endpoint: lock an endpoint, before it is changed.
--
-- callers  service.shop.event_endpoints._lock
-- param    $1 endpoint_id bigint
-- returns  one or none; none = no such endpoint
-- locks    event_endpoints NO KEY UPDATE; to commit
-- waits    on event_endpoints for others who change it, and the worker that switches it off; 55P03 after lock_timeout
--          -> busy
-- index    event_endpoints_listed
-- rows     0..1
-- guards   none
SELECT id
FROM event_endpoints
WHERE id = $1 AND deleted_at IS NULL
FOR NO KEY UPDATE;
