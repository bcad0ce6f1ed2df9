-- orders/list_numbered: the orders with these numbers, newest first, for a page of what was searched.
--
-- callers  service.shop.orders.list_orders
-- param    $1 numbers bigint[]
-- returns  many by number descending; none = no such orders
-- locks    none
-- waits    none
-- index    orders_number_unique, payments_one_per_order
-- rows     0..100 by LIMIT, usually 20
-- guards   none
SELECT
    orders.id,
    orders.number,
    orders.cart_id,
    orders.status,
    orders.total_minor,
    orders.currency,
    orders.reference,
    orders.email,
    orders.created_at,
    orders.expires_at,
    orders.paid_at,
    orders.fulfilled_at,
    orders.cancelled_at,
    payments.status AS payment_status,
    payments.refunded_minor
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE orders.number = any($1)
ORDER BY orders.number DESC
LIMIT 100;
