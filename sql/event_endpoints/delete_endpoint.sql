-- event_endpoints/delete_endpoint: delete an endpoint; retention deletes its events and its row.
--
-- callers  service.shop.event_endpoints.delete
-- param    $1 endpoint_id bigint
-- returns  none
-- locks    event_endpoints NO KEY UPDATE; to commit
-- waits    for nothing: event_endpoints/lock_endpoint has locked the endpoint
-- index    event_endpoints_pkey
-- rows     0..1
-- guards   none
UPDATE event_endpoints
SET
    active = false,
    deleted_at = now(),
    updated_at = now()
WHERE id = $1;
