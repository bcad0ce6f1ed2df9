-- audit_state/list_orders_by_events: the orders of these events.
--
-- callers  service.shop.audit._read_window
-- param    $1 after_id bigint
-- param    $2 to_id bigint
-- returns  many in no order; none = no event has such an id
-- locks    none
-- waits    none
-- index    order_events_position
-- rows     0..1000 by service.shop.audit.WINDOW
-- guards   none
SELECT DISTINCT order_id
FROM order_events
WHERE id > $1 AND id <= $2;
