-- orders/list_orders_by_status: a keyset page of the orders in one status, newest first.
-- A range of orders_by_status instead of `status = $1`. With equality a plan may walk all orders by number instead,
-- past millions of others if the status is rare.
--
-- callers  service.shop.orders.list_orders
-- param    $1 status text
-- param    $2 before_number bigint
-- param    $3 limit bigint
-- returns  many by status descending, number descending; none = no older orders in this status
-- locks    none
-- waits    none
-- index    orders_by_status, payments_one_per_order
-- rows     0..101 by LIMIT $3, usually 21
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
WHERE (orders.status, orders.number) < ($1, $2) AND orders.status >= $1
ORDER BY
    orders.status DESC,
    orders.number DESC
LIMIT $3;
