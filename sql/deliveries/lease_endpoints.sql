-- deliveries/lease_endpoints: renew this run's leases of active endpoints, and take those that nobody has.
-- Returns all active endpoints, with `leased` where it did so: a lease that is locked at the moment has not ended.
-- One worker at a time sends the events of an endpoint, so that its events need no claims of their own.
--
-- callers  service.shop.deliveries.Deliveries._renew_leases
-- param    $1 run_id uuid
-- param    $2 lease_seconds double precision
-- returns  many in no order; none = there is no active endpoint
-- locks    event_leases NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    none; reads whole tables
-- rows     0..20 by service.shop.event_endpoints.MAX_ENDPOINTS, usually 2
-- guards   none
WITH lease AS MATERIALIZED (
    SELECT event_leases.ctid
    FROM event_leases
    INNER JOIN event_endpoints ON event_leases.endpoint_id = event_endpoints.id
    WHERE event_endpoints.active AND (event_leases.run_id = $1 OR event_leases.leased_until < now())
    FOR NO KEY UPDATE OF event_leases SKIP LOCKED
),

renewed AS (
    UPDATE event_leases
    SET
        run_id = $1,
        leased_until = now() + make_interval(secs => $2)
    -- By place: a row that has changed since this statement began has another one, and is taken next time.
    WHERE ctid = any(array(SELECT ctid FROM lease))
    RETURNING endpoint_id
)

SELECT
    event_endpoints.id AS endpoint_id,
    renewed.endpoint_id IS NOT NULL AS leased,
    event_leases.failing_since IS NOT NULL AS failing
FROM event_endpoints
INNER JOIN event_leases ON event_endpoints.id = event_leases.endpoint_id
LEFT JOIN renewed ON event_endpoints.id = renewed.endpoint_id
WHERE event_endpoints.active;
