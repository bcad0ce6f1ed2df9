-- reconcile/find_missed_events: which of these Stripe events were never stored.
--
-- callers  service.shop.reconcile._store_missed
-- param    $1 event_ids text[]
-- returns  many in no order; none = all are stored
-- locks    none
-- waits    none
-- index    stripe_events_pkey
-- rows     0..100 by service.shop.reconcile.PAGE, usually 0
-- guards   none
SELECT listed.id
FROM unnest($1::text[]) AS listed (id)
WHERE NOT EXISTS (SELECT FROM stripe_events WHERE stripe_events.id = listed.id);
