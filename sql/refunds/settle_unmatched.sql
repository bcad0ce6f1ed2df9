-- refunds/settle_unmatched: keep an order's unmatched payments due until succeeded refunds cover each one.
-- A succeeded refund may still fail: then its payment is due again. One that people settled elsewhere is not.
--
-- callers  service.shop.refunds._record
-- param    $1 order_id uuid
-- returns  many in no order; none = nothing changed
-- locks    unmatched_payments NO KEY UPDATE in no order; to commit
-- waits    on unmatched_payments for the sweep that claims it; 55P03 after lock_timeout -> busy;
--          transitions/lock_order has locked the order
-- index    unmatched_payments_by_order, refunds_by_order, stuck_items_pkey
-- rows     0..n, usually 0
-- guards   none
UPDATE unmatched_payments
SET next_attempt_at = CASE WHEN next_attempt_at IS NULL THEN now() END
WHERE
    order_id = $1
    -- Only rows that are due though covered, or not due though uncovered.
    AND (next_attempt_at IS NULL) = (
        amount_minor > (
            SELECT coalesce(sum(refunds.amount_minor), 0)
            FROM refunds
            WHERE
                refunds.order_id = $1
                AND refunds.stripe_payment_intent_id = unmatched_payments.stripe_payment_intent_id
                AND refunds.status = 'SUCCEEDED'
        )
        AND NOT EXISTS (
            SELECT FROM stuck_items
            WHERE
                stuck_items.kind = 'unmatched_payment'
                AND stuck_items.id = unmatched_payments.stripe_payment_intent_id
                AND stuck_items.resolved
        )
    )
RETURNING
    stripe_payment_intent_id,
    amount_minor,
    currency,
    next_attempt_at IS NULL AS refunded;
