-- refunds/add_refund: decide a refund; Stripe is asked for it after the commit, with the row's id as its key.
--
-- callers  service.shop.refunds.request, service.shop.refunds.add_late_payment, service.shop.refunds._decide_owed
-- param    $1 refund_id uuid
-- param    $2 order_id uuid
-- param    $3 stripe_payment_intent_id text
-- param    $4 amount_minor bigint
-- param    $5 cause text
-- param    $6 restock boolean
-- param    $7 reason text null
-- param    $8 wait_seconds double precision
-- param    $9 actor text
-- returns  none
-- locks    orders KEY SHARE; new refunds; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    refunds_late_money_once
-- rows     0..1
-- guards   none
INSERT INTO refunds (
    id, order_id, stripe_payment_intent_id, amount_minor, cause, restock, reason, next_attempt_at, actor
)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8), $9)
ON CONFLICT (stripe_payment_intent_id) WHERE cause = 'late_money' AND status <> 'FAILED' DO NOTHING;
