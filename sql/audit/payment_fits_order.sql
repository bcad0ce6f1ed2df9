-- audit/payment_fits_order: each of these orders has captured exactly its total, or keeps no money once cancelled.
-- Every refund that is owed has been decided, for each payment. Refunds never exceed what was captured.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 order_ids uuid[]
-- returns  many by subject, detail; none = all is well
-- locks    none
-- waits    none
-- index    stuck_items_by_order, refunds_by_order, orders_pkey, payments_one_per_order, unmatched_payments_by_order
-- rows     0..n, usually 0
-- guards   none
WITH settled AS MATERIALIZED (
    SELECT order_id
    FROM stuck_items
    WHERE order_id = any($1) AND resolved
),

unmatched AS MATERIALIZED (
    SELECT
        order_id,
        stripe_payment_intent_id,
        amount_minor,
        next_attempt_at
    FROM unmatched_payments
    WHERE order_id = any($1)
),

refund AS (
    SELECT
        order_id,
        stripe_payment_intent_id,
        amount_minor,
        cause,
        status,
        -- A refund made in Stripe's dashboard may take what we have decided to refund. Ours then fails soon.
        status = 'REQUESTED' AND created_at <= max(created_at) FILTER (WHERE cause = 'stripe') OVER (
            PARTITION BY order_id, stripe_payment_intent_id
        ) IS TRUE AS overtaken
    FROM refunds
    WHERE order_id = any($1)
),

refund_total AS MATERIALIZED (
    SELECT
        order_id,
        stripe_payment_intent_id,
        coalesce(sum(amount_minor) FILTER (WHERE status = 'SUCCEEDED'), 0) AS succeeded_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status <> 'FAILED'), 0) AS decided_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status <> 'FAILED' AND NOT overtaken), 0) AS bounded_minor,
        max(amount_minor) FILTER (WHERE cause = 'late_money') AS owed_minor
    FROM refund
    GROUP BY
        order_id,
        stripe_payment_intent_id
),

refunded_payment AS (
    SELECT
        refund_total.order_id,
        refund_total.stripe_payment_intent_id,
        refund_total.decided_minor,
        refund_total.bounded_minor,
        refund_total.owed_minor,
        coalesce(
            unmatched.amount_minor,
            payments.captured_minor,
            payments.amount_minor,
            -- A second payment of the order: its first decision names the amount.
            refund_total.owed_minor,
            0
        ) AS captured_minor
    FROM refund_total
    LEFT JOIN payments
        ON
            refund_total.order_id = payments.order_id
            AND refund_total.stripe_payment_intent_id = payments.stripe_payment_intent_id
    LEFT JOIN unmatched
        ON refund_total.stripe_payment_intent_id = unmatched.stripe_payment_intent_id
)

SELECT
    'order ' || orders.id AS subject,
    orders.status || ' with payment ' || coalesce(payments.status, 'none') || ' '
    || coalesce(payments.stripe_payment_intent_id, 'without intent') || ' of '
    || coalesce(payments.amount_minor, 0) || ', total ' || orders.total_minor || ', refunded '
    || coalesce(payments.refunded_minor, 0) || ', refunds ' || coalesce(refund_total.succeeded_minor, 0) AS detail
FROM orders
LEFT JOIN payments ON orders.id = payments.order_id
LEFT JOIN refund_total
    ON
        payments.order_id = refund_total.order_id
        AND payments.stripe_payment_intent_id = refund_total.stripe_payment_intent_id
WHERE
    orders.id = any($1)
    AND (
        payments.id IS NULL
        OR payments.amount_minor <> orders.total_minor
        OR payments.currency <> orders.currency
        OR payments.order_number <> orders.number
        OR coalesce(refund_total.succeeded_minor, 0) <> payments.refunded_minor
        OR CASE orders.status
            WHEN 'PENDING_PAYMENT' THEN payments.status NOT IN ('INITIATED', 'PROCESSING')
            WHEN 'CANCELLED' THEN payments.status NOT IN ('FAILED', 'EXPIRED', 'REFUND_PENDING', 'REFUNDED')
            -- Not REFUNDED: a whole refund before fulfilment cancels the order.
            WHEN 'PAID' THEN payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING')
            ELSE payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
        END
        OR (
            payments.status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
            AND payments.stripe_payment_intent_id IS NULL
        )
        OR (
            payments.status IN ('REFUND_PENDING', 'REFUNDED')
            -- audit/unmatched_payments_are_refunded checks a captured amount other than the order's.
            AND payments.captured_minor IS NULL
            AND coalesce(refund_total.decided_minor, 0) < payments.amount_minor
            -- People paid the customer back in another way.
            AND NOT EXISTS (SELECT FROM settled WHERE settled.order_id = orders.id)
        )
    )
UNION ALL
SELECT
    'order ' || order_id AS subject,
    'payment ' || stripe_payment_intent_id || ': ' || captured_minor || ' captured, ' || coalesce(owed_minor, 0)
    || ' owed, refunds of ' || decided_minor || ' decided' AS detail
FROM refunded_payment
WHERE
    bounded_minor > captured_minor
    OR (
        decided_minor < owed_minor
        AND NOT EXISTS (SELECT FROM settled WHERE settled.order_id = refunded_payment.order_id)
    )
UNION ALL
SELECT
    'order ' || unmatched.order_id AS subject,
    'unmatched payment ' || unmatched.stripe_payment_intent_id || ': ' || unmatched.amount_minor
    || ' captured, ' || coalesce(refund_total.succeeded_minor, 0) || ' refunded, and not due' AS detail
FROM unmatched
LEFT JOIN refund_total
    ON
        unmatched.order_id = refund_total.order_id
        AND unmatched.stripe_payment_intent_id = refund_total.stripe_payment_intent_id
WHERE
    unmatched.next_attempt_at IS NULL
    AND coalesce(refund_total.succeeded_minor, 0) < unmatched.amount_minor
    AND NOT EXISTS (SELECT FROM settled WHERE settled.order_id = unmatched.order_id)
ORDER BY
    subject,
    detail;
