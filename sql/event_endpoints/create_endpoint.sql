-- event_endpoints/create_endpoint: add an endpoint, unless there are too many.
-- Several at once may exceed the limit, because it only bounds what a transition writes.
--
-- callers  service.shop.event_endpoints.create
-- param    $1 url text
-- param    $2 types text[]
-- param    $3 description text
-- param    $4 secret bytea
-- param    $5 max_endpoints integer
-- returns  one or none; none = there are too many
-- locks    new event_endpoints, event_leases; to commit
-- waits    for nothing: it only inserts
-- index    event_endpoints_listed
-- rows     0..1
-- guards   none
WITH endpoint AS (
    INSERT INTO event_endpoints (url, types, description, secret)
    SELECT
        $1,
        $2,
        $3,
        $4
    WHERE (SELECT count(*) FROM event_endpoints WHERE deleted_at IS NULL) < $5::integer
    RETURNING
        id,
        url,
        types,
        description,
        active,
        created_at
),

lease AS (
    INSERT INTO event_leases (endpoint_id)
    SELECT id FROM endpoint
)

SELECT
    id,
    url,
    types,
    description,
    active,
    NULL::timestamptz AS failing_since,
    created_at
FROM endpoint;
