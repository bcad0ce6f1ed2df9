-- orders/walk_orders: the numbers of the newest orders whose payment has a status.
-- For a status that most orders have: at most 10,000 are read. If that is why fewer than $3 fit, walked_to is where the
-- next page goes on.
--
-- callers  service.shop.orders._find
-- param    $1 payment_status text
-- param    $2 before_number bigint
-- param    $3 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    orders_number_unique, payments_one_per_order
-- rows     1
-- guards   none
WITH match AS (
    SELECT number
    FROM (
        SELECT
            number,
            id
        FROM orders
        WHERE number < $2
        ORDER BY number DESC
        LIMIT 10000
    ) AS walk
    WHERE $1 = (SELECT payments.status FROM payments WHERE payments.order_id = walk.id)
    ORDER BY number DESC
    LIMIT $3
)

SELECT
    coalesce(array_agg(number ORDER BY number DESC), '{}') AS numbers,
    CASE
        WHEN count(*) < $3 THEN (
            SELECT min(number)
            FROM (
                SELECT number
                FROM orders
                WHERE number < $2
                ORDER BY number DESC
                LIMIT 10000
            ) AS walk
            HAVING count(*) = 10000
        )
    END AS walked_to
FROM match;
