-- orders/list_orders: a keyset page of all orders, newest first.
--
-- callers  service.shop.orders.list_orders
-- param    $1 before_number bigint
-- param    $2 limit bigint
-- returns  many by number descending; none = no older orders
-- locks    none
-- waits    none
-- index    orders_number_unique, payments_one_per_order
-- rows     0..101 by LIMIT $2, usually 21
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
WHERE orders.number < $1
ORDER BY orders.number DESC
LIMIT $2;
