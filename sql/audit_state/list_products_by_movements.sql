-- audit_state/list_products_by_movements: the products of these stock movements.
--
-- callers  service.shop.audit._read_window
-- param    $1 after_id bigint
-- param    $2 to_id bigint
-- returns  many in no order; none = no movement has such an id
-- locks    none
-- waits    none
-- index    stock_movements_position
-- rows     0..1000 by service.shop.audit.WINDOW
-- guards   none
SELECT DISTINCT product_id
FROM stock_movements
WHERE id > $1 AND id <= $2;
