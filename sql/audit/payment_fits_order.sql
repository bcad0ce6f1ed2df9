-- audit/payment_fits_order: whoever is past pending has paid exactly the total; whoever is cancelled keeps no money.
--
-- caller   service.shop.audit.audit
-- returns  many, by subject; none = all is well
-- locks    none
-- waits    none
-- index    none; reads the tables whole
-- rows     0
-- guards   none
WITH given_back AS (
    SELECT
        payments.order_id,
        sum(refunds.amount_minor) FILTER (WHERE refunds.status = 'SUCCEEDED') AS amount_minor,
        sum(refunds.amount_minor) AS decided_minor
    FROM payments
    INNER JOIN refunds
        ON
            payments.order_id = refunds.order_id
            AND payments.stripe_payment_intent_id = refunds.stripe_payment_intent_id
    WHERE refunds.status <> 'FAILED'
    GROUP BY payments.order_id
)

SELECT
    'order ' || orders.id AS subject,
    orders.status || ' with payment ' || coalesce(payments.status, 'none') || ' of '
    || coalesce(payments.amount_minor, 0) || ', total ' || orders.total_minor || ', refunded '
    || coalesce(payments.refunded_minor, 0) || ', refunds ' || coalesce(given_back.amount_minor, 0) AS detail
FROM orders
LEFT JOIN payments ON orders.id = payments.order_id
LEFT JOIN given_back ON orders.id = given_back.order_id
WHERE
    payments.id IS NULL
    OR payments.amount_minor <> orders.total_minor
    OR payments.currency <> orders.currency
    OR coalesce(given_back.amount_minor, 0) <> payments.refunded_minor
    OR CASE orders.status
        WHEN 'PENDING_PAYMENT' THEN payments.status NOT IN ('INITIATED', 'PROCESSING')
        WHEN 'CANCELLED' THEN payments.status NOT IN ('FAILED', 'EXPIRED', 'REFUND_PENDING', 'REFUNDED')
        ELSE payments.status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
    END
    OR (
        orders.status = 'CANCELLED'
        AND payments.status IN ('REFUND_PENDING', 'REFUNDED')
        AND coalesce(given_back.decided_minor, 0) < payments.amount_minor
    )
ORDER BY orders.number
LIMIT 1000;
