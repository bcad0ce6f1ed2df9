-- reconcile/move_position: record how far a list of Stripe's was read.
-- The position never goes back: a worker that lost its claim may still write an older one.
--
-- callers  service.shop.reconcile._move_position
-- param    $1 list text
-- param    $2 reached_at timestamptz
-- returns  none
-- locks    reconcile_positions NO KEY UPDATE; to commit
-- waits    on reconcile_positions for another worker that moves it; 55P03 after lock_timeout -> busy
-- index    reconcile_positions_pkey
-- rows     0..1
-- guards   none
UPDATE reconcile_positions
SET reached_at = $2
WHERE list = $1 AND reached_at < $2;
