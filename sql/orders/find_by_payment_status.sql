-- orders/find_by_payment_status: the numbers of the orders whose payment has a status, newest first.
-- Not for the two statuses of a usual purchase, which payments_by_status omits: orders/walk_orders finds those.
-- At most 10,000 payments are read. If that is why fewer orders than $4 fit, walked_to is where the next page goes on.
--
-- callers  service.shop.orders._find
-- param    $1 payment_status text
-- param    $2 status text null
-- param    $3 before_number bigint
-- param    $4 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    payments_by_status, orders_pkey
-- rows     1
-- guards   none
WITH match AS (
    SELECT order_number
    FROM (
        SELECT
            order_number,
            order_id
        FROM payments
        WHERE status = $1 AND status NOT IN ('INITIATED', 'SUCCEEDED') AND order_number < $3
        ORDER BY order_number DESC
        LIMIT 10000
    ) AS walk
    WHERE $2::text IS NULL OR $2 = (SELECT orders.status FROM orders WHERE orders.id = walk.order_id)
    ORDER BY order_number DESC
    LIMIT $4
)

SELECT
    coalesce(array_agg(order_number ORDER BY order_number DESC), '{}') AS numbers,
    CASE
        WHEN count(*) < $4 THEN (
            SELECT min(order_number)
            FROM (
                SELECT order_number
                FROM payments
                WHERE status = $1 AND status NOT IN ('INITIATED', 'SUCCEEDED') AND order_number < $3
                ORDER BY order_number DESC
                LIMIT 10000
            ) AS walk
            HAVING count(*) = 10000
        )
    END AS walked_to
FROM match;
