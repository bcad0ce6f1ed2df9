-- orders/list_events: an order's history, oldest first.
--
-- callers  service.shop.orders.timeline, service.shop.traces.link_to_order, service.shop.transitions.add_note_once
-- param    $1 order_id uuid
-- returns  many by id; none = no such order
-- locks    none
-- waits    none
-- index    order_events_pkey
-- rows     0..n, usually 3
-- guards   none
SELECT
    at,
    from_status,
    to_status,
    cause,
    actor,
    note
FROM order_events
WHERE order_id = $1
ORDER BY id;
