-- event_endpoints/list_deliveries: a page of an endpoint's events, newest first.
--
-- callers  service.shop.event_endpoints.list_deliveries
-- param    $1 endpoint_id bigint
-- param    $2 before_id bigint
-- param    $3 limit bigint
-- returns  many by id descending; none = the end of the list
-- locks    none
-- waits    none
-- index    event_deliveries_pkey
-- rows     0..101 by service.shop.event_endpoints.MAX_PAGE, usually 20
-- guards   none
SELECT
    id,
    event_id,
    type,
    status,
    attempts,
    result,
    next_attempt_at,
    attempted_at,
    created_at,
    (data ->> 'order_id')::uuid AS order_id
FROM event_deliveries
WHERE endpoint_id = $1 AND id < $2
ORDER BY id DESC
LIMIT $3;
