-- webhooks/record_event: store an event with its outcome, once; with $6 false a job still has to process it.
-- It ends the transaction that applied the event. A second delivery waits at the order's lock or here.
-- An event that was only stored, as after a failure, counts as new.
--
-- callers  service.shop.webhooks.receive_webhook
-- param    $1 event_id text
-- param    $2 event_type text
-- param    $3 payload jsonb
-- param    $4 outcome text
-- param    $5 order_id uuid null
-- param    $6 handled boolean
-- returns  one or none; none = it was recorded before
-- locks    stripe_events NO KEY UPDATE; orders KEY SHARE; new stripe_events; to commit
-- waits    on stripe_events for a transaction that handles the same event; 55P03 after lock_timeout -> busy
-- index    orders_pkey, stripe_events_pkey
-- rows     0..1
-- guards   none
INSERT INTO stripe_events (id, type, payload, outcome, order_id, handled_at, next_attempt_at)
VALUES (
    $1,
    $2,
    $3,
    $4,
    (SELECT id FROM orders WHERE orders.id = $5),
    CASE WHEN $6 THEN now() END,
    CASE WHEN NOT $6 THEN now() END
)
ON CONFLICT (id) DO UPDATE
    SET
        outcome = excluded.outcome,
        order_id = excluded.order_id,
        handled_at = excluded.handled_at,
        next_attempt_at = excluded.next_attempt_at
    WHERE stripe_events.outcome IS NULL
RETURNING id;
