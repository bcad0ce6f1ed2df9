-- deliveries/record_attempts: record what attempts to deliver events of an endpoint came to.
-- A failed one is due again after a backoff from 5 s to 15 minutes, and the events that wait for it move with it. Three
-- days after it was written or resent, or the endpoint switched on, it is given up. Returns those that were given up.
--
-- callers  service.shop.deliveries._Sender._store
-- param    $1 endpoint_id bigint
-- param    $2 ids bigint[]
-- param    $3 results text[]
-- param    $4 delivered boolean[]
-- returns  many in no order; none = none was given up
-- locks    event_deliveries NO KEY UPDATE in no order; to commit
-- waits    on event_deliveries for staff who resend the event; 55P03 after lock_timeout -> busy
-- index    event_leases_pkey, event_deliveries_pkey, event_deliveries_by_subject
-- rows     0..n, usually 0
-- guards   none
WITH ending AS MATERIALIZED (
    SELECT
        event_deliveries.id,
        greatest(event_deliveries.created_at, event_deliveries.resent_at, event_leases.switched_on_at)
        < now() - interval '3 days' AS is_over
    FROM event_leases
    INNER JOIN event_deliveries ON event_leases.endpoint_id = event_deliveries.endpoint_id
    WHERE event_leases.endpoint_id = $1 AND event_deliveries.endpoint_id = $1 AND event_deliveries.id = any($2)
),

attempt AS MATERIALIZED (
    UPDATE event_deliveries
    SET
        status = CASE
            WHEN outcome.delivered THEN 'delivered'
            WHEN ending.is_over THEN 'given_up'
            ELSE 'pending'
        END,
        attempts = event_deliveries.attempts + 1,
        attempted_at = now(),
        result = outcome.result,
        next_attempt_at = CASE
            WHEN NOT outcome.delivered AND NOT ending.is_over
                THEN now() + least(interval '15 min', interval '5 s' * 2 ^ least(event_deliveries.attempts, 12))
        END,
        finished_at = CASE WHEN outcome.delivered OR ending.is_over THEN now() END
    FROM unnest($2::bigint[], $3::text[], $4::boolean[]) AS outcome (id, result, delivered)
    INNER JOIN ending ON outcome.id = ending.id
    WHERE
        event_deliveries.endpoint_id = $1
        AND event_deliveries.id = outcome.id
        AND event_deliveries.next_attempt_at IS NOT NULL
    RETURNING
        event_deliveries.id,
        event_deliveries.event_id,
        event_deliveries.type,
        event_deliveries.subject,
        event_deliveries.status,
        event_deliveries.result,
        event_deliveries.next_attempt_at,
        (event_deliveries.data ->> 'order_id')::uuid AS order_id
),

waiting AS (
    UPDATE event_deliveries
    SET next_attempt_at = attempt.next_attempt_at
    FROM attempt
    WHERE
        event_deliveries.endpoint_id = $1
        AND event_deliveries.subject = attempt.subject
        AND event_deliveries.id > attempt.id
        AND event_deliveries.next_attempt_at IS NOT NULL
        AND attempt.next_attempt_at IS NOT NULL
)

SELECT
    id,
    event_id,
    type,
    order_id,
    result
FROM attempt
WHERE status = 'given_up';
