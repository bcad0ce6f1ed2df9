-- refunds/set_balance: how much of a captured payment has been given back, and what that makes of it.
-- An order that waited for its refund is due again once that has failed.
--
-- callers  service.shop.refunds._balance
-- param    $1 order_id uuid
-- param    $2 refunded_minor bigint
-- param    $3 status text
-- returns  none
-- locks    payments, orders NO KEY UPDATE; to commit
-- waits    for nothing: transitions/lock_order holds the rows
-- index    payments_one_per_order, orders_pkey
-- rows     0..1
-- guards   payments_refunded_within_amount -> order_not_refundable
WITH payment AS (
    UPDATE payments
    SET
        refunded_minor = $2,
        status = $3,
        updated_at = now()
    WHERE order_id = $1 AND status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
    RETURNING
        order_id,
        status
)

UPDATE orders
SET
    next_attempt_at = now(),
    attempts = 0
FROM payment
-- With the empty text, so that it is found by its id and never among all that are in this status.
WHERE orders.id = payment.order_id AND orders.status || '' = 'PAID' AND payment.status = 'SUCCEEDED';
