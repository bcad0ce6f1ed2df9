-- orders/walk_orders_by_status: the numbers of the orders in one status whose payment has another one, newest first.
-- A range of orders_by_status, as in orders/list_orders_by_status. At most 10,000 orders are read. If that is why fewer
-- than $4 fit, walked_to is where the next page goes on.
--
-- callers  service.shop.orders._find
-- param    $1 status text
-- param    $2 payment_status text
-- param    $3 before_number bigint
-- param    $4 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    orders_by_status, payments_one_per_order
-- rows     1
-- guards   none
WITH match AS (
    SELECT number
    FROM (
        SELECT
            status,
            number,
            id
        FROM orders
        WHERE (status, number) < ($1, $3) AND status >= $1
        ORDER BY
            status DESC,
            number DESC
        LIMIT 10000
    ) AS walk
    WHERE $2 = (SELECT payments.status FROM payments WHERE payments.order_id = walk.id)
    ORDER BY
        status DESC,
        number DESC
    LIMIT $4
)

SELECT
    coalesce(array_agg(number ORDER BY number DESC), '{}') AS numbers,
    CASE
        WHEN count(*) < $4 THEN (
            SELECT min(number)
            FROM (
                SELECT number
                FROM orders
                WHERE (status, number) < ($1, $3) AND status >= $1
                ORDER BY
                    status DESC,
                    number DESC
                LIMIT 10000
            ) AS walk
            HAVING count(*) = 10000
        )
    END AS walked_to
FROM match;
