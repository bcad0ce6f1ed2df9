-- erasure/find_by_number: the order with this number.
--
-- callers  service.shop.erasure._find
-- param    $1 number bigint
-- returns  one or none; none = no such order
-- locks    none
-- waits    none
-- index    orders_number_unique
-- rows     0..1
-- guards   none
SELECT id
FROM orders
WHERE number = $1;
