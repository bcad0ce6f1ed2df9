-- transitions/add_note: a line in an order's history that is no transition.
--
-- callers  service.shop.transitions.add_note
-- param    $1 order_id uuid
-- param    $2 status text
-- param    $3 cause text
-- param    $4 note text
-- returns  none
-- locks    orders KEY SHARE; new order_events; to commit
-- waits    for nothing: transitions/lock_order holds the order
-- index    none
-- rows     1
-- guards   none
INSERT INTO order_events (order_id, from_status, to_status, cause, note)
VALUES ($1, $2, $2, $3, $4);
