-- audit/payment_fits_order: whoever is past pending has paid exactly the total; whoever is cancelled keeps no money.
-- What is owed back is decided, payment by payment, and never more of it than was captured.
--
-- callers  service.shop.audit.audit
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads the tables whole
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
WITH given_back AS (
    SELECT
        order_id,
        stripe_payment_intent_id,
        coalesce(sum(amount_minor) FILTER (WHERE status = 'SUCCEEDED'), 0) AS succeeded_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status IN ('PENDING', 'SUCCEEDED')), 0) AS made_minor,
        coalesce(sum(amount_minor) FILTER (WHERE status <> 'FAILED'), 0) AS decided_minor,
        coalesce(max(amount_minor) FILTER (WHERE cause = 'late_money'), 0) AS late_minor
    FROM refunds
    GROUP BY
        order_id,
        stripe_payment_intent_id
),

-- By itself, as a plan that hopes to stop at the thousandth row looks up each order's payment one by one.
violation AS MATERIALIZED (
    SELECT
        'order ' || orders.id AS subject,
        orders.status || ' with payment ' || coalesce(payments.status, 'none') || ' of '
        || coalesce(payments.amount_minor, 0) || ', total ' || orders.total_minor || ', refunded '
        || coalesce(payments.refunded_minor, 0) || ', refunds ' || coalesce(given_back.succeeded_minor, 0) AS detail
    FROM orders
    LEFT JOIN payments ON orders.id = payments.order_id
    LEFT JOIN given_back
        ON
            payments.order_id = given_back.order_id
            AND payments.stripe_payment_intent_id = given_back.stripe_payment_intent_id
    WHERE
        payments.id IS NULL
        OR payments.amount_minor <> orders.total_minor
        OR payments.currency <> orders.currency
        OR coalesce(given_back.succeeded_minor, 0) <> payments.refunded_minor
        OR given_back.made_minor > coalesce(payments.captured_minor, payments.amount_minor)
        OR CASE orders.status
            WHEN 'PENDING_PAYMENT' THEN payments.status NOT IN ('INITIATED', 'PROCESSING')
            WHEN 'CANCELLED' THEN payments.status NOT IN ('FAILED', 'EXPIRED', 'REFUND_PENDING', 'REFUNDED')
            -- Refunded whole before it was fulfilled, it is cancelled.
            WHEN 'PAID' THEN payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING')
            ELSE payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
        END
        OR (
            payments.status IN ('REFUND_PENDING', 'REFUNDED')
            -- Of another amount, it is under audit/unmatched_payments_are_refunded.
            AND payments.captured_minor IS NULL
            AND coalesce(given_back.decided_minor, 0) < payments.amount_minor
        )
    UNION ALL
    SELECT
        'order ' || order_id AS subject,
        'payment ' || stripe_payment_intent_id || ': ' || late_minor || ' are owed back, of which ' || decided_minor
        || ' are decided' AS detail
    FROM given_back
    WHERE decided_minor < late_minor
)

SELECT
    subject,
    detail
FROM violation
ORDER BY subject
LIMIT 1000;
