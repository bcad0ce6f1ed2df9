-- event_endpoints/resend_delivery: make an event due for its endpoint again, whatever came of it.
--
-- callers  service.shop.event_endpoints.resend
-- param    $1 endpoint_id bigint
-- param    $2 delivery_id bigint
-- returns  one or none; none = no such event of this endpoint
-- locks    event_deliveries NO KEY UPDATE; to commit
-- waits    on event_deliveries for the worker that records its attempts; 55P03 after lock_timeout -> busy
-- index    event_deliveries_pkey
-- rows     0..1
-- guards   none
UPDATE event_deliveries
SET
    resent_at = now(),
    status = 'pending',
    next_attempt_at = clock_timestamp(),
    finished_at = NULL
WHERE endpoint_id = $1 AND id = $2
RETURNING
    id,
    event_id,
    type,
    status,
    attempts,
    result,
    next_attempt_at,
    attempted_at,
    created_at,
    (data ->> 'order_id')::uuid AS order_id;
