-- transitions/add_note: add a note to an order's history, without a transition.
--
-- callers  service.shop.erasure._erase, service.shop.transitions.add_note
-- param    $1 order_id uuid
-- param    $2 status text
-- param    $3 cause text
-- param    $4 note text
-- param    $5 actor text
-- returns  none
-- locks    orders KEY SHARE; new order_events; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    none
-- rows     1
-- guards   none
INSERT INTO order_events (order_id, from_status, to_status, cause, note, actor)
VALUES ($1, $2, $2, $3, $4, $5);
