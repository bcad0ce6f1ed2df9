-- refunds/set_balance: record how much of a captured payment is refunded, and the status that follows.
-- A paid order whose refund failed is due again: it was waiting for that refund.
--
-- callers  service.shop.refunds._balance
-- param    $1 order_id uuid
-- param    $2 refunded_minor bigint
-- param    $3 status text
-- returns  none
-- locks    payments, orders NO KEY UPDATE; to commit
-- waits    for nothing: transitions/lock_order has locked the rows
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
-- Appending '' stops the planner from reading all orders in this status through orders_by_status.
WHERE orders.id = payment.order_id AND orders.status || '' = 'PAID' AND payment.status = 'SUCCEEDED';
