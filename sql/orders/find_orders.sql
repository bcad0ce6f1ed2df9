-- orders/find_orders: the numbers of the orders that a search of staff names exactly, newest first.
-- The text $3 is looked up as a reference, and as each kind of Stripe's ids. Subqueries instead of joins: without
-- statistics of references, a plan would read all payments. OFFSET 0: the filters run in order, until $7 orders fit.
-- At most 10,000 orders of the address are read, and of the reference, one by one: a plan may else sort all of them.
-- Without a status, $7 of each are enough.
-- If that is why fewer than $7 fit, walked_to is where the next page goes on. Above it, both are complete.
--
-- callers  service.shop.orders._find
-- param    $1 number bigint null
-- param    $2 email_digest bytea
-- param    $3 text text
-- param    $4 status text null
-- param    $5 payment_status text null
-- param    $6 before_number bigint
-- param    $7 limit bigint
-- returns  one
-- locks    none
-- waits    none
-- index    orders_number_unique, orders_by_email, orders_by_reference, orders_pkey, payments_one_per_order,
--          payments_session_once, payments_payment_intent_once, unmatched_payments_pkey, refunds_stripe_refund_once,
--          refunds_late_money_once, disputes_pkey, disputes_by_payment, stripe_events_pkey
-- rows     1
-- guards   none
WITH RECURSIVE most AS (
    SELECT CASE WHEN $4::text IS NULL AND $5::text IS NULL THEN $7::bigint ELSE 10000 END AS places
),

by_email (number, place) AS (
    SELECT
        max(number),
        1
    FROM orders
    WHERE email_digest = $2 AND email IS NOT NULL AND number < $6
    UNION ALL
    SELECT
        (
            SELECT max(orders.number)
            FROM orders
            WHERE orders.email_digest = $2 AND orders.email IS NOT NULL AND orders.number < by_email.number
        ),
        by_email.place + 1
    FROM by_email
    WHERE by_email.number IS NOT NULL AND by_email.place < (SELECT most.places FROM most)
),

by_reference (number, place) AS (
    SELECT
        max(number),
        1
    FROM orders
    WHERE reference = $3 AND number < $6
    UNION ALL
    SELECT
        (SELECT max(orders.number) FROM orders WHERE orders.reference = $3 AND orders.number < by_reference.number),
        by_reference.place + 1
    FROM by_reference
    WHERE by_reference.number IS NOT NULL AND by_reference.place < (SELECT most.places FROM most)
),

bottom AS (
    SELECT
        greatest(
            (SELECT min(number) FROM by_email HAVING count(number) = (SELECT most.places FROM most)),
            (SELECT min(number) FROM by_reference HAVING count(number) = (SELECT most.places FROM most))
        ) AS number
),

named AS (
    SELECT number FROM by_email
    UNION
    SELECT number FROM by_reference
    UNION
    SELECT number FROM orders
    WHERE number = $1
    UNION
    SELECT number FROM orders
    WHERE id = any(array(
        SELECT order_id FROM payments
        WHERE stripe_session_id = $3
        UNION ALL
        SELECT order_id FROM payments
        WHERE stripe_payment_intent_id = $3
        UNION ALL
        SELECT order_id FROM unmatched_payments
        WHERE stripe_payment_intent_id = $3
        UNION ALL
        SELECT order_id FROM refunds
        WHERE stripe_refund_id = $3
        UNION ALL
        SELECT order_id FROM refunds
        WHERE stripe_payment_intent_id = $3 AND cause = 'late_money' AND status <> 'FAILED'
        UNION ALL
        SELECT order_id FROM disputes
        WHERE stripe_dispute_id = $3
        UNION ALL
        SELECT order_id FROM disputes
        WHERE stripe_payment_intent_id = $3
        UNION ALL
        SELECT order_id FROM stripe_events
        WHERE id = $3
    ))
),

match AS (
    SELECT number
    FROM (
        SELECT number
        FROM named
        WHERE number < $6 AND number >= coalesce((SELECT bottom.number FROM bottom), 0)
        ORDER BY number DESC
        OFFSET 0
    ) AS walk
    WHERE
        ($4::text IS NULL OR $4 = (SELECT orders.status FROM orders WHERE orders.number = walk.number))
        AND (
            $5::text IS NULL
            OR $5 = (
                SELECT payments.status
                FROM payments
                WHERE payments.order_id = (SELECT orders.id FROM orders WHERE orders.number = walk.number)
            )
        )
    ORDER BY number DESC
    LIMIT $7
)

SELECT
    coalesce(array_agg(number ORDER BY number DESC), '{}') AS numbers,
    CASE WHEN count(*) < $7 THEN (SELECT bottom.number FROM bottom) END AS walked_to
FROM match;
