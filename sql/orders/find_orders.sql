-- orders/find_orders: the numbers of the orders that a search of staff names exactly, newest first.
-- The text $3 is looked up as a reference, and as each kind of Stripe's ids. Subqueries instead of joins: without
-- statistics of references, a plan would read all payments. MATERIALIZED: a plan may else read all orders in a status.
--
-- callers  service.shop.orders._find
-- param    $1 number bigint null
-- param    $2 email_digest bytea
-- param    $3 text text
-- param    $4 status text null
-- param    $5 payment_status text null
-- param    $6 before_number bigint
-- param    $7 limit bigint
-- returns  many by number descending; none = no older order fits
-- locks    none
-- waits    none
-- index    orders_number_unique, orders_by_email_digest, orders_by_reference, orders_pkey, payments_one_per_order,
--          payments_session_once, payments_payment_intent_once, unmatched_payments_pkey, refunds_stripe_refund_once,
--          disputes_pkey, disputes_by_payment, stripe_events_pkey
-- rows     0..101 by LIMIT $7, usually 1
-- guards   none
WITH match AS MATERIALIZED (
    SELECT
        id,
        number,
        status
    FROM orders
    WHERE number = $1
    UNION
    SELECT
        id,
        number,
        status
    FROM orders
    WHERE email_digest = $2 AND email IS NOT NULL
    UNION
    SELECT
        id,
        number,
        status
    FROM orders
    WHERE reference = $3
    UNION
    SELECT
        id,
        number,
        status
    FROM orders
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
        SELECT order_id FROM disputes
        WHERE stripe_dispute_id = $3
        UNION ALL
        SELECT order_id FROM disputes
        WHERE stripe_payment_intent_id = $3
        UNION ALL
        SELECT order_id FROM stripe_events
        WHERE id = $3
    ))
)

SELECT number
FROM match
WHERE
    number < $6
    AND ($4::text IS NULL OR status = $4)
    AND ($5::text IS NULL OR $5 = (SELECT payments.status FROM payments WHERE payments.order_id = match.id))
ORDER BY number DESC
LIMIT $7;
