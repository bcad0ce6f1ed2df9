-- webhooks/store_event: store an event, once.
-- A concurrent delivery of the same event is waited for. Afterwards the event is stored, or it is ours to store.
-- Of an event that names an erased order only $4 is stored, as in webhooks/record_event.
--
-- callers  service.shop.webhooks.store_event
-- param    $1 event_id text
-- param    $2 event_type text
-- param    $3 payload jsonb
-- param    $4 reduced_payload jsonb
-- param    $5 named_order_id uuid null
-- returns  none
-- locks    orders KEY SHARE; new stripe_events; to commit
-- waits    on orders, stripe_events for the order's erasure, and for a transaction that stores the same event; 55P03
--          after lock_timeout -> busy
-- index    orders_pkey, stripe_events_pkey
-- rows     0..1
-- guards   none
WITH named_order AS MATERIALIZED (
    SELECT erased_at IS NOT NULL AS erased
    FROM orders
    WHERE id = $5
    FOR KEY SHARE
)

INSERT INTO stripe_events (id, type, payload, next_attempt_at)
VALUES ($1, $2, CASE WHEN (SELECT erased FROM named_order) THEN $4::jsonb ELSE $3 END, now())
ON CONFLICT (id) DO NOTHING;
