-- event_endpoints/rotate_secret: give an endpoint a new secret; the last five sign too, each for 24 hours.
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
    previous_secrets = (array_prepend(secret, previous_secrets))[1:5],
    previous_until = (array_prepend(now() + interval '24 hours', previous_until))[1:5],
    updated_at = now()
WHERE id = $1 AND deleted_at IS NULL
RETURNING id;
