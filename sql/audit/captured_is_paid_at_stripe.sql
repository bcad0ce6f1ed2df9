-- audit/captured_is_paid_at_stripe: of these sessions, as Stripe lists them, the paid ones are captured here, and no
-- order is captured of which Stripe lists only unpaid ones.
-- Reconcile runs it for each page of Stripe's list, and a full audit for each order's session. Orders that are not ours
-- are left out.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- param    $2 session_ids text[]
-- param    $3 payment_intents text[]
-- param    $4 paid boolean[]
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    payments_one_per_order, refunds_by_order, unmatched_payments_pkey
-- rows     0..100 by service.shop.reconcile.PAGE, usually 0
-- guards   none
WITH listed AS MATERIALIZED (
    SELECT
        order_id,
        session_id,
        payment_intent,
        paid,
        bool_or(paid) OVER (PARTITION BY order_id) AS order_is_paid
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[])
        AS session (order_id, session_id, payment_intent, paid)
)

SELECT
    'order ' || listed.order_id || ' ' || listed.session_id AS subject,
    CASE WHEN listed.paid THEN 'paid' ELSE 'not paid' END || ' at Stripe, the order has the payment '
    || coalesce(payments.stripe_payment_intent_id, 'none') || ' ' || payments.status AS detail
FROM listed
INNER JOIN payments ON listed.order_id = payments.order_id
WHERE
    CASE
        WHEN NOT listed.order_is_paid THEN payments.status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
        WHEN NOT listed.paid THEN false
        WHEN
            payments.status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
            AND coalesce(listed.payment_intent = payments.stripe_payment_intent_id, true)
            THEN false
        -- A second payment of the order, or one of another amount.
        ELSE NOT EXISTS (
            SELECT FROM refunds
            WHERE
                refunds.order_id = listed.order_id
                AND refunds.stripe_payment_intent_id = listed.payment_intent
        )
        AND NOT EXISTS (
            SELECT FROM unmatched_payments
            WHERE unmatched_payments.stripe_payment_intent_id = listed.payment_intent
        )
    END
ORDER BY subject;
