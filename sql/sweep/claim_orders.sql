-- sweep/claim_orders: take orders on which something is due, each put off before it is tried.
-- Nothing stays locked while Stripe is asked, and an order that keeps failing comes back ever later.
--
-- caller   service.shop.sweep.sweep
-- param    $1 limit bigint
-- returns  many, in no order; none = nothing is due
-- locks    due rows, FOR NO KEY UPDATE SKIP LOCKED, to commit
-- waits    for nothing: rows held elsewhere are skipped
-- index    orders_due, orders_pkey
-- rows     0..100, usually 0
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
    next_attempt_at = now() + least(interval '1 hour', interval '10 seconds' * 2 ^ least(orders.attempts, 12))
FROM due
WHERE orders.id = due.id
RETURNING
    orders.id,
    orders.status;
