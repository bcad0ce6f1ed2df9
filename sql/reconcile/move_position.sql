-- reconcile/move_position: record how far Stripe's list of events was read.
-- The position never goes back, because several workers may read the list at once.
--
-- callers  service.shop.reconcile.fetch_events
-- param    $1 reached_at timestamptz
-- returns  none
-- locks    reconcile_positions NO KEY UPDATE; to commit
-- waits    on reconcile_positions for another worker that moves it; 55P03 after lock_timeout -> busy
-- index    reconcile_positions_pkey
-- rows     0..1
-- guards   none
UPDATE reconcile_positions
SET reached_at = $1
WHERE list = 'events' AND reached_at < $1;
