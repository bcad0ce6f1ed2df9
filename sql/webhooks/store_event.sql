-- webhooks/store_event: store an event, once.
-- A concurrent delivery of the same event is waited for. Afterwards the event is stored, or it is ours to store.
--
-- callers  service.shop.webhooks.store_event
-- param    $1 event_id text
-- param    $2 event_type text
-- param    $3 payload jsonb
-- returns  none
-- locks    new stripe_events; to commit
-- waits    on stripe_events for a transaction that stores the same event; 55P03 after lock_timeout -> busy
-- index    stripe_events_pkey
-- rows     0..1
-- guards   none
INSERT INTO stripe_events (id, type, payload, next_attempt_at)
VALUES ($1, $2, $3, now())
ON CONFLICT (id) DO NOTHING;
