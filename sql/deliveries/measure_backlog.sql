-- deliveries/measure_backlog: how many events are due for endpoints that work, and for how long the oldest is.
-- More than 10,000 events of an endpoint are not counted, so that a measurement stays cheap in any backlog.
--
-- callers  service.shop.deliveries.Deliveries._measure
-- returns  one; without any, 0 rows and 0 seconds
-- locks    none
-- waits    none
-- index    event_endpoints_active, event_leases_pkey, event_deliveries_due
-- rows     1
-- guards   none
SELECT
    count(*) AS due_rows,
    coalesce(extract(EPOCH FROM now() - min(due.next_attempt_at)), 0)::double precision AS oldest_due_seconds
FROM event_endpoints
INNER JOIN event_leases ON event_endpoints.id = event_leases.endpoint_id
CROSS JOIN
    LATERAL (
        SELECT next_attempt_at
        FROM event_deliveries
        WHERE endpoint_id = event_endpoints.id AND next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT 10000
    ) AS due
WHERE event_endpoints.active AND event_leases.failing_since IS NULL;
