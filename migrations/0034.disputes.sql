-- Disputes of payments, in Stripe's words.
--
-- depends: 0033.refund_reasons_valid
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the disputes; Stripe keeps its own

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE disputes (
    stripe_dispute_id text NOT NULL,
    stripe_payment_intent_id text NOT NULL,
    -- Null until the payment is known.
    order_id uuid,
    -- In minor units.
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    reason text NOT NULL,
    status text NOT NULL,
    -- The time at Stripe of the event that these words are from. Events come in any order.
    reported_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT disputes_pkey PRIMARY KEY (stripe_dispute_id),
    CONSTRAINT disputes_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT disputes_id_length CHECK (char_length(stripe_dispute_id) BETWEEN 1 AND 255),
    CONSTRAINT disputes_payment_intent_length CHECK (char_length(stripe_payment_intent_id) BETWEEN 1 AND 255),
    CONSTRAINT disputes_amount_not_negative CHECK (amount_minor >= 0),
    CONSTRAINT disputes_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT disputes_reason_length CHECK (char_length(reason) BETWEEN 1 AND 100),
    CONSTRAINT disputes_status_length CHECK (char_length(status) BETWEEN 1 AND 100)
);
CREATE INDEX disputes_by_order ON disputes (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX disputes_by_payment ON disputes (stripe_payment_intent_id);
COMMENT ON TABLE disputes IS 'Payments that customers dispute at their bank, in Stripe''s words.';
COMMENT ON COLUMN disputes.stripe_dispute_id IS 'Stripe''s id (dp_).';
COMMENT ON COLUMN disputes.stripe_payment_intent_id IS 'The disputed payment.';
COMMENT ON COLUMN disputes.order_id IS 'The order of the payment. Null until the payment is known.';
COMMENT ON COLUMN disputes.amount_minor IS 'The disputed amount, in minor units of currency.';
COMMENT ON COLUMN disputes.currency IS 'ISO 4217.';
COMMENT ON COLUMN disputes.reason IS 'Stripe''s word for what the customer claims.';
COMMENT ON COLUMN disputes.status IS 'Stripe''s word for the state, such as needs_response, won or lost.';
COMMENT ON COLUMN disputes.reported_at IS 'When Stripe created the event that these words are from.';
COMMENT ON COLUMN disputes.created_at IS 'When the first event about it came.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (
                stripe_dispute_id, stripe_payment_intent_id, order_id, amount_minor, currency, reason, status,
                reported_at
            ),
            UPDATE (order_id, amount_minor, currency, reason, status, reported_at)
        ON disputes TO commerce_app;
    END IF;
    -- The worker deletes disputes of other applications on the same Stripe account.
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (
                stripe_dispute_id, stripe_payment_intent_id, order_id, amount_minor, currency, reason, status,
                reported_at
            ),
            UPDATE (order_id, amount_minor, currency, reason, status, reported_at),
            DELETE
        ON disputes TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON disputes TO commerce_readonly;
    END IF;
END
$$;
