-- audit_state/list_orders: orders by number, for a full audit.
--
-- callers  service.shop.audit._everything
-- param    $1 after_number bigint
-- returns  many by number; none = there is no other order
-- locks    none
-- waits    none
-- index    orders_number_unique
-- rows     0..200 by LIMIT
-- guards   none
SELECT
    number,
    id
FROM orders
WHERE number > $1
ORDER BY number
LIMIT 200;
