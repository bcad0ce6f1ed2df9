-- sweep/claim_orders: claim orders that are due, and defer each before it is tried.
-- The locks end with this statement, before Stripe is asked. session_to_close: the Stripe session of an order that is
-- unpaid at the end of its hold. Retries are at most a minute apart, so that units on hold are released soon after an
-- outage of Stripe. A payment that takes days is checked every ten minutes.
--
-- callers  service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many in no order; none = nothing is due
-- locks    orders NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows locked elsewhere are skipped
-- index    orders_due, payments_one_per_order
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH due AS MATERIALIZED (
    SELECT ctid
    FROM orders
    WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE orders
SET
    attempts = orders.attempts + 1,
    next_attempt_at = now() + CASE payments.status
        WHEN 'PROCESSING' THEN interval '10 minutes'
        ELSE least(interval '1 minute', interval '10 seconds' * 2 ^ least(orders.attempts, 12))
    END
FROM payments
-- By place: a row that has changed since this statement began has another one, and waits for the next sweep. By key,
-- its old version would be updated, which can deadlock beside a foreign key's KEY SHARE.
WHERE orders.ctid = any(array(SELECT ctid FROM due)) AND payments.order_id = orders.id
RETURNING
    orders.id,
    orders.status,
    CASE
        WHEN
            orders.status = 'PENDING_PAYMENT'
            AND payments.status = 'INITIATED'
            AND orders.expires_at <= now()
            AND payments.session_expires_at + interval '10 minutes' >= now()
            THEN payments.stripe_session_id
    END AS session_to_close;
