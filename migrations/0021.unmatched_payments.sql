-- Payments that match no order. Each is due until Stripe shows it as refunded.
--
-- depends: 0020.captured_amounts_valid
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the payments; open refunds must be settled before

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE unmatched_payments (
    stripe_payment_intent_id text NOT NULL,
    -- The order that the payment names.
    order_id uuid NOT NULL,
    -- What Stripe captured, in minor units.
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the sweep claims it next; null once it is refunded whole.
    next_attempt_at timestamptz DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT unmatched_payments_pkey PRIMARY KEY (stripe_payment_intent_id),
    CONSTRAINT unmatched_payments_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT unmatched_payments_amount_positive CHECK (amount_minor > 0),
    CONSTRAINT unmatched_payments_currency_form CHECK (currency ~ '^[A-Z]{3}$')
);
CREATE INDEX unmatched_payments_by_order ON unmatched_payments (order_id);
CREATE INDEX unmatched_payments_due ON unmatched_payments (next_attempt_at) WHERE next_attempt_at IS NOT NULL;

-- Blocks, as in 0007.roles. The API records such a payment. The worker records what Stripe makes of its refund.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT, INSERT (stripe_payment_intent_id, order_id, amount_minor, currency)
        ON unmatched_payments TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (stripe_payment_intent_id, order_id, amount_minor, currency),
            UPDATE (next_attempt_at, attempts)
        ON unmatched_payments TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON unmatched_payments TO commerce_readonly;
    END IF;
END
$$;
