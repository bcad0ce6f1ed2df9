-- sweep/claim_orders: take orders on which something is due, each put off before it is tried.
-- session_to_close is of an order whose hold has ended and of whose payment nothing has been heard.
-- Nothing stays locked while Stripe is asked. An order that keeps failing comes back ever later, up to a minute:
-- an outage of Stripe must not keep its units for much longer than it lasts. A payment on its way may take days.
--
-- callers  service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many in no order; none = nothing is due
-- locks    orders NO KEY UPDATE SKIP LOCKED; to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    orders_due, orders_pkey, payments_one_per_order
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH due AS MATERIALIZED (
    SELECT id
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
-- As an array, as a join with so many rows as LIMIT lets a generic plan expect would read the table whole.
WHERE orders.id = any(array(SELECT id FROM due)) AND payments.order_id = orders.id
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
