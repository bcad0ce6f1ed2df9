-- stuck/find_unhandled_events: which of these events have been unhandled for a day.
--
-- callers  service.shop.stuck.list_open
-- param    $1 event_ids text[]
-- returns  many in no order; none = all were handled
-- locks    none
-- waits    none
-- index    stripe_events_pkey
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
SELECT
    id,
    order_id,
    type
FROM stripe_events
-- With IS NULL the planner would also read the index of all unhandled events.
WHERE id = any($1) AND coalesce(handled_at, 'infinity') = 'infinity' AND received_at < now() - interval '1 day';
