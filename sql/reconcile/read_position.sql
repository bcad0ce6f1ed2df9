-- reconcile/read_position: up to when Stripe's list of events was read, and the current time.
--
-- callers  service.shop.reconcile.fetch_events
-- returns  one
-- locks    none
-- waits    none
-- index    reconcile_positions_pkey
-- rows     1
-- guards   none
SELECT
    reached_at,
    now() AS asked_at
FROM reconcile_positions
WHERE list = 'events';
