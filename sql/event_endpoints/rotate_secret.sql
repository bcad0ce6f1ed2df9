-- event_endpoints/rotate_secret: give an endpoint a new secret; the last one signs too for 24 hours.
--
-- callers  service.shop.event_endpoints.rotate
-- param    $1 endpoint_id bigint
-- param    $2 secret bytea
-- returns  one or none; none = no such endpoint
-- locks    event_endpoints NO KEY UPDATE; to commit
-- waits    on event_endpoints for others who change it, and the worker that switches it off; 55P03 after lock_timeout
--          -> busy
-- index    event_endpoints_listed
-- rows     0..1
-- guards   none
UPDATE event_endpoints
SET
    secret = $2,
    previous_secret = secret,
    previous_until = now() + interval '24 hours',
    updated_at = now()
WHERE id = $1 AND deleted_at IS NULL
RETURNING previous_until;
