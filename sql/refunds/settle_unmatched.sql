-- refunds/settle_unmatched: an order's unmatched payments are due until their refunds have succeeded, whole.
-- A refund that succeeded may still fail: then its payment is due again.
--
-- callers  service.shop.refunds._record
-- param    $1 order_id uuid
-- returns  none
-- locks    unmatched_payments NO KEY UPDATE in no order; to commit
-- waits    on unmatched_payments for the sweep that claims it; 55P03 after lock_timeout -> busy
-- index    unmatched_payments_by_order, refunds_by_order
-- rows     0..n, usually 0
-- guards   none
UPDATE unmatched_payments
SET next_attempt_at = CASE WHEN next_attempt_at IS NULL THEN now() END
WHERE
    order_id = $1
    -- Only those that are due and need not be, or the other way round.
    AND (next_attempt_at IS NULL) = (
        amount_minor > (
            SELECT coalesce(sum(refunds.amount_minor), 0)
            FROM refunds
            WHERE
                refunds.order_id = $1
                AND refunds.stripe_payment_intent_id = unmatched_payments.stripe_payment_intent_id
                AND refunds.status = 'SUCCEEDED'
        )
    );
