-- audit_state/list_carts_by_events: the carts of the orders of these events.
-- An array of ids, because the planner expects so many of them that it would read all orders for a join.
--
-- callers  service.shop.audit._read_window
-- param    $1 after_id bigint
-- param    $2 to_id bigint
-- returns  many in no order; none = no event has such an id
-- locks    none
-- waits    none
-- index    order_events_position, orders_pkey
-- rows     0..1000 by service.shop.audit.WINDOW
-- guards   none
SELECT DISTINCT cart_id
FROM orders
WHERE id = any(array(SELECT order_id FROM order_events WHERE order_events.id > $1 AND order_events.id <= $2));
