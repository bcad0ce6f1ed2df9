-- reconcile/move_position: how far Stripe's list of events has been gone through; never back, as workers do it at once.
--
-- caller   service.shop.reconcile.fetch_events
-- param    $1 reached_at timestamptz
-- returns  none
-- locks    the row, FOR NO KEY UPDATE, to commit
-- waits    for another worker doing the same; 55P03 after lock_timeout -> busy
-- index    none; the table has one row
-- rows     0..1
-- guards   none
UPDATE reconcile_positions
SET reached_at = $1
WHERE list = 'events' AND reached_at < $1;
