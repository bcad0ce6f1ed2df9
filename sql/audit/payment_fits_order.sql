-- audit/payment_fits_order: an order past pending has captured exactly its total; a cancelled order keeps no money.
-- Every refund that is owed has been decided, for each payment. Refunds never exceed what was captured.
--
-- callers  service.shop.audit.audit
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH refund_total AS (
    SELECT
        order_id,
        stripe_payment_intent_id,
        coalesce(sum(amount_minor) FILTER (WHERE status = 'SUCCEEDED'), 0) AS succeeded_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status IN ('PENDING', 'SUCCEEDED')), 0) AS created_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status <> 'FAILED'), 0) AS decided_minor,
        coalesce(max(amount_minor) FILTER (WHERE cause = 'late_money'), 0) AS owed_minor
    FROM refunds
    GROUP BY
        order_id,
        stripe_payment_intent_id
),

-- Materialized: a plan that expects to stop at row 1000 would look up each order's payment one by one.
violation AS MATERIALIZED (
    SELECT
        'order ' || orders.id AS subject,
        orders.status || ' with payment ' || coalesce(payments.status, 'none') || ' of '
        || coalesce(payments.amount_minor, 0) || ', total ' || orders.total_minor || ', refunded '
        || coalesce(payments.refunded_minor, 0) || ', refunds ' || coalesce(refund_total.succeeded_minor, 0) AS detail
    FROM orders
    LEFT JOIN payments ON orders.id = payments.order_id
    LEFT JOIN refund_total
        ON
            payments.order_id = refund_total.order_id
            AND payments.stripe_payment_intent_id = refund_total.stripe_payment_intent_id
    WHERE
        payments.id IS NULL
        OR payments.amount_minor <> orders.total_minor
        OR payments.currency <> orders.currency
        OR coalesce(refund_total.succeeded_minor, 0) <> payments.refunded_minor
        OR refund_total.created_minor > coalesce(payments.captured_minor, payments.amount_minor)
        OR CASE orders.status
            WHEN 'PENDING_PAYMENT' THEN payments.status NOT IN ('INITIATED', 'PROCESSING')
            WHEN 'CANCELLED' THEN payments.status NOT IN ('FAILED', 'EXPIRED', 'REFUND_PENDING', 'REFUNDED')
            -- Not REFUNDED: a whole refund before fulfilment cancels the order.
            WHEN 'PAID' THEN payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING')
            ELSE payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
        END
        OR (
            payments.status IN ('REFUND_PENDING', 'REFUNDED')
            -- audit/unmatched_payments_are_refunded checks a captured amount other than the order's.
            AND payments.captured_minor IS NULL
            AND coalesce(refund_total.decided_minor, 0) < payments.amount_minor
        )
    UNION ALL
    SELECT
        'order ' || order_id AS subject,
        'payment ' || stripe_payment_intent_id || ': ' || owed_minor || ' are owed, of which ' || decided_minor
        || ' are decided' AS detail
    FROM refund_total
    WHERE decided_minor < owed_minor
)

SELECT
    subject,
    detail
FROM violation
ORDER BY subject
LIMIT 1000;
