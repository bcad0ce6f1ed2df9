-- webhooks/record_event: store an event with its outcome, once; with $6 false a job still has to process it.
-- It ends the transaction that applied the event. A second delivery waits at the order's lock or here.
-- An event that was only stored, as after a failure, counts as new.
-- Of an event that names an erased order only $4 is stored. KEY SHARE, because erasure/lock_orders waits for it.
--
-- callers  service.shop.webhooks.receive_webhook
-- param    $1 event_id text
-- param    $2 event_type text
-- param    $3 payload jsonb
-- param    $4 reduced_payload jsonb
-- param    $5 outcome text
-- param    $6 order_id uuid null
-- param    $7 named_order_id uuid null
-- param    $8 handled boolean
-- returns  one or none; none = it was recorded before
-- locks    orders KEY SHARE; stripe_events NO KEY UPDATE; new stripe_events; to commit
-- waits    on orders, stripe_events for the order's erasure, and for a transaction that handles the same event; 55P03
--          after lock_timeout -> busy
-- index    orders_pkey, stripe_events_pkey
-- rows     0..1
-- guards   none
WITH named_order AS MATERIALIZED (
    SELECT
        id,
        erased_at IS NOT NULL AS erased
    FROM orders
    WHERE id = $7
    FOR KEY SHARE
)

INSERT INTO stripe_events (id, type, payload, outcome, order_id, handled_at, next_attempt_at)
VALUES (
    $1,
    $2,
    CASE WHEN (SELECT erased FROM named_order) THEN $4::jsonb ELSE $3 END,
    $5,
    (SELECT id FROM named_order WHERE id = $6),
    CASE WHEN $8 THEN now() END,
    CASE WHEN NOT $8 THEN now() END
)
ON CONFLICT (id) DO UPDATE
    SET
        outcome = excluded.outcome,
        order_id = excluded.order_id,
        handled_at = excluded.handled_at,
        next_attempt_at = excluded.next_attempt_at
    WHERE stripe_events.outcome IS NULL
RETURNING id;
