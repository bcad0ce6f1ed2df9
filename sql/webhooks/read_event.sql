-- webhooks/read_event: a stored event.
--
-- callers  service.shop.webhooks.process_stored_event, service.shop.webhooks.replay_event
-- param    $1 event_id text
-- returns  one or none; none = it was never stored
-- locks    none
-- waits    none
-- index    stripe_events_pkey
-- rows     0..1
-- guards   none
SELECT
    id,
    type,
    payload,
    outcome,
    handled_at IS NOT NULL AS handled
FROM stripe_events
WHERE id = $1;
