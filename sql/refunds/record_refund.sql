-- refunds/record_refund: record Stripe's state of one refund, made by us or in Stripe's dashboard.
-- Two lists may be recorded in another order than they were read, so a refund never returns to an earlier state.
--
-- callers  service.shop.refunds._record
-- param    $1 refund_id uuid
-- param    $2 order_id uuid
-- param    $3 stripe_payment_intent_id text
-- param    $4 amount_minor bigint
-- param    $5 status text
-- param    $6 stripe_refund_id text
-- param    $7 failure_reason text null
-- returns  none
-- locks    orders KEY SHARE; refunds UPDATE; new refunds; to commit
-- waits    on refunds for the sweep that claims it; 55P03 after lock_timeout -> busy; transitions/lock_order has locked
--          the order
-- index    refunds_pkey
-- rows     0..1
-- guards   none
INSERT INTO refunds (
    id, order_id, stripe_payment_intent_id, amount_minor, cause, status, stripe_refund_id, failure_reason,
    actor, next_attempt_at
)
VALUES ($1, $2, $3, $4, 'stripe', $5, $6, $7, 'stripe', CASE WHEN $5 = 'PENDING' THEN now() + interval '1 minute' END)
ON CONFLICT (id) DO UPDATE
    SET
        status = excluded.status,
        stripe_refund_id = excluded.stripe_refund_id,
        failure_reason = excluded.failure_reason,
        next_attempt_at = CASE
            WHEN excluded.status = 'PENDING' THEN greatest(refunds.next_attempt_at, excluded.next_attempt_at)
        END,
        updated_at = now()
    WHERE refunds.status IN ('REQUESTED', 'PENDING') OR refunds.stripe_refund_id IS NULL OR excluded.status = 'FAILED';
