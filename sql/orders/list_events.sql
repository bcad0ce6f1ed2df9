-- orders/list_events: an order's history, oldest first.
--
-- callers  service.shop.orders.timeline, service.shop.traces.link_to_order, service.shop.transitions.add_note_once
-- param    $1 order_id uuid
-- param    $2 user_id text null
-- param    $3 reads_all boolean
-- returns  many by id; none = no such order, or another's
-- locks    none
-- waits    none
-- index    order_events_pkey, orders_pkey
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
WHERE
    order_id = $1
    AND EXISTS (SELECT FROM orders WHERE id = $1 AND (user_id IS NULL OR user_id = $2 OR $3))
ORDER BY id;
