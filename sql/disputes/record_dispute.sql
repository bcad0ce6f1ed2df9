-- disputes/record_dispute: record what an event says of a dispute, unless a newer one came before it.
-- Newer by Stripe's time, in seconds. Within a second, an answered dispute is newer than an open one, and a closed one
-- is the newest.
--
-- callers  service.shop.disputes.record
-- param    $1 stripe_dispute_id text
-- param    $2 stripe_payment_intent_id text
-- param    $3 order_id uuid null
-- param    $4 amount_minor bigint
-- param    $5 currency text
-- param    $6 reason text
-- param    $7 status text
-- param    $8 reported_at timestamptz
-- returns  one or none; none = a newer event came before it
-- locks    orders KEY SHARE; disputes NO KEY UPDATE; new disputes; to commit
-- waits    on orders, disputes for a transaction that erases the order or records the same dispute; 55P03 after
--          lock_timeout -> busy
-- index    disputes_pkey
-- rows     0..1
-- guards   none
INSERT INTO disputes (
    stripe_dispute_id, stripe_payment_intent_id, order_id, amount_minor, currency, reason, status, reported_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (stripe_dispute_id) DO UPDATE
    SET
        amount_minor = excluded.amount_minor,
        currency = excluded.currency,
        reason = excluded.reason,
        status = excluded.status,
        reported_at = excluded.reported_at
    WHERE
    disputes.reported_at < excluded.reported_at
    OR (
        disputes.reported_at = excluded.reported_at
        AND (
            disputes.status LIKE '%needs_response'
            OR excluded.status IN ('won', 'lost', 'prevented', 'warning_closed')
        )
    )
RETURNING status;
