-- deliveries/list_due: the events to send to an endpoint now, by the time since when they are due.
-- Of each order or product only the oldest that is pending: the next waits for it. What became due more than $2 seconds
-- ago has been read before: without this bound, each call passes the dead rows that an open snapshot keeps. $3: what is
-- being sent.
--
-- callers  service.shop.deliveries._Sender._read
-- param    $1 endpoint_id bigint
-- param    $2 within_seconds double precision
-- param    $3 sending_ids bigint[]
-- returns  many by next_attempt_at; none = nothing is due, or the endpoint is switched off
-- locks    none
-- waits    none
-- index    event_deliveries_due, event_deliveries_by_subject, event_endpoints_active
-- rows     0..200 by LIMIT, usually 0
-- guards   none
SELECT
    delivery.id,
    delivery.event_id,
    delivery.type,
    delivery.data,
    delivery.created_at,
    delivery.attempts,
    event_endpoints.url,
    event_endpoints.secret,
    array(
        SELECT previous.secret
        FROM unnest(event_endpoints.previous_secrets, event_endpoints.previous_until) AS previous (secret, ends_at)
        WHERE previous.ends_at > now()
    ) AS previous_secrets
FROM event_endpoints
INNER JOIN event_deliveries AS delivery ON event_endpoints.id = delivery.endpoint_id
WHERE
    event_endpoints.id = $1
    AND event_endpoints.active
    AND delivery.endpoint_id = $1
    AND delivery.next_attempt_at > now() - make_interval(secs => $2)
    AND delivery.next_attempt_at <= now()
    AND delivery.id <> all($3::bigint[])
    AND NOT EXISTS (
        SELECT FROM event_deliveries AS earlier
        WHERE
            earlier.endpoint_id = $1
            AND earlier.subject = delivery.subject
            AND earlier.id < delivery.id
            AND earlier.next_attempt_at IS NOT NULL
    )
ORDER BY delivery.next_attempt_at
LIMIT 200;
