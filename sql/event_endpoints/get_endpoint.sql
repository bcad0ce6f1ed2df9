-- event_endpoints/get_endpoint: one endpoint.
--
-- callers  service.shop.event_endpoints._read
-- param    $1 endpoint_id bigint
-- returns  one or none; none = no such endpoint
-- locks    none
-- waits    none
-- index    event_endpoints_listed, event_leases_pkey
-- rows     0..1
-- guards   none
SELECT
    event_endpoints.id,
    event_endpoints.url,
    event_endpoints.types,
    event_endpoints.description,
    event_endpoints.active,
    event_leases.failing_since,
    event_endpoints.created_at
FROM event_endpoints
INNER JOIN event_leases ON event_endpoints.id = event_leases.endpoint_id
WHERE event_endpoints.id = $1 AND event_endpoints.deleted_at IS NULL;
