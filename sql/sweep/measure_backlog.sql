-- sweep/measure_backlog: how many rows are due of each kind that the sweep repairs, and for how long the oldest is.
-- More than 10,000 rows of a kind are not counted, so that a measurement stays cheap in any backlog.
--
-- callers  service.shop.sweep.measure_backlog
-- returns  many by repairer; none = nothing is due
-- locks    none
-- waits    none
-- index    orders_due, stripe_events_due, refunds_due, unmatched_payments_due
-- rows     0..4 by LIMIT, usually 0
-- guards   none
WITH due AS (
    (
        SELECT
            'orders' AS repairer,
            next_attempt_at
        FROM orders
        WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT 10000
    )

    UNION ALL

    (
        SELECT
            'events' AS repairer,
            next_attempt_at
        FROM stripe_events
        WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT 10000
    )

    UNION ALL

    (
        SELECT
            'refunds' AS repairer,
            next_attempt_at
        FROM refunds
        WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT 10000
    )

    UNION ALL

    (
        SELECT
            'unmatched_payments' AS repairer,
            next_attempt_at
        FROM unmatched_payments
        WHERE next_attempt_at <= now()
        ORDER BY next_attempt_at
        LIMIT 10000
    )
)

SELECT
    repairer,
    count(*) AS due_rows,
    extract(EPOCH FROM now() - min(next_attempt_at))::double precision AS oldest_due_seconds
FROM due
GROUP BY repairer
ORDER BY repairer
LIMIT 4;
