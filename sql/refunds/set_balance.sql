-- refunds/set_balance: how much of a captured payment has been given back, and what that makes of it.
--
-- caller   service.shop.refunds._balance
-- param    $1 order_id uuid
-- param    $2 refunded_minor bigint
-- param    $3 status text
-- returns  none
-- locks    the payment, FOR NO KEY UPDATE (held already), to commit
-- waits    for nothing: orders/lock_order holds the row
-- index    payments_one_per_order
-- rows     0..1
-- guards   payments_refunded_within_amount -> order_not_refundable
UPDATE payments
SET
    refunded_minor = $2,
    status = $3,
    updated_at = now()
WHERE order_id = $1 AND status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED');
