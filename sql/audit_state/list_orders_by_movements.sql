-- audit_state/list_orders_by_movements: the orders of these stock movements.
--
-- callers  service.shop.audit._read_window
-- param    $1 after_id bigint
-- param    $2 to_id bigint
-- returns  many in no order; none = no movement of an order has such an id
-- locks    none
-- waits    none
-- index    stock_movements_position
-- rows     0..1000 by service.shop.audit.WINDOW
-- guards   none
SELECT DISTINCT order_id
FROM stock_movements
WHERE id > $1 AND id <= $2 AND order_id IS NOT NULL;
