-- event_endpoints/list_endpoints: a page of the endpoints, by id.
--
-- callers  service.shop.event_endpoints.list_endpoints
-- param    $1 after_id bigint
-- param    $2 limit bigint
-- returns  many by id; none = the end of the list
-- locks    none
-- waits    none
-- index    event_endpoints_listed, event_leases_pkey
-- rows     0..101 by service.shop.event_endpoints.MAX_PAGE, usually 3
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
WHERE event_endpoints.id > $1 AND event_endpoints.deleted_at IS NULL
ORDER BY event_endpoints.id
LIMIT $2;
