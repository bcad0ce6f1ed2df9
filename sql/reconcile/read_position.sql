-- reconcile/read_position: up to when a list of Stripe's was read.
--
-- callers  service.shop.reconcile._read_position
-- param    $1 list text
-- returns  one
-- locks    none
-- waits    none
-- index    reconcile_positions_pkey
-- rows     1
-- guards   none
SELECT reached_at
FROM reconcile_positions
WHERE list = $1;
