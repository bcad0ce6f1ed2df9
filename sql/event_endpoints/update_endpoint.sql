-- event_endpoints/update_endpoint: change an endpoint's members; null keeps one.
--
-- callers  service.shop.event_endpoints.update
-- param    $1 endpoint_id bigint
-- param    $2 url text null
-- param    $3 types text[] null
-- param    $4 description text null
-- param    $5 active boolean null
-- returns  none
-- locks    event_endpoints NO KEY UPDATE; to commit
-- waits    for nothing: event_endpoints/lock_endpoint has locked the endpoint
-- index    event_endpoints_pkey
-- rows     0..1
-- guards   none
UPDATE event_endpoints
SET
    url = coalesce($2, url),
    types = coalesce($3, types),
    description = coalesce($4, description),
    active = coalesce($5, active),
    updated_at = now()
WHERE id = $1;
