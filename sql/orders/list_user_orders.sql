-- orders/list_user_orders: a keyset page of a user's orders, newest first.
--
-- callers  service.shop.orders.list_own_orders
-- param    $1 user_id text
-- param    $2 before_number bigint
-- param    $3 limit bigint
-- returns  many by number descending; none = no older orders
-- locks    none
-- waits    none
-- index    orders_by_user, payments_one_per_order
-- rows     0..101 by LIMIT $3, usually 3
-- guards   none
SELECT
    orders.id,
    orders.number,
    orders.cart_id,
    orders.status,
    orders.total_minor,
    orders.currency,
    orders.reference,
    orders.created_at,
    orders.expires_at,
    orders.paid_at,
    orders.fulfilled_at,
    orders.cancelled_at,
    payments.status AS payment_status,
    payments.refunded_minor
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE orders.user_id = $1 AND orders.number < $2
ORDER BY orders.number DESC
LIMIT $3;
