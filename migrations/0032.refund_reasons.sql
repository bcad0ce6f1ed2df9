-- Why staff refunded, and why a refund failed.
--
-- depends: 0031.amounts_by_currency_valid
-- phase: expand
-- lock: ACCESS EXCLUSIVE on refunds, briefly: the columns have no default, and old rows are not read
-- undo: drops the columns with their texts

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- What staff wrote.
ALTER TABLE refunds ADD COLUMN reason text;
-- Stripe's word: its failure_reason, the code with which it refused the refund, or canceled.
ALTER TABLE refunds ADD COLUMN failure_reason text;
ALTER TABLE refunds ADD CONSTRAINT refunds_reason_length CHECK (char_length(reason) BETWEEN 1 AND 500) NOT VALID;
ALTER TABLE refunds ADD CONSTRAINT refunds_failure_reason_form CHECK (
    failure_reason IS NULL OR (status = 'FAILED' AND char_length(failure_reason) BETWEEN 1 AND 100)
) NOT VALID;

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (reason) ON refunds TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT INSERT (reason, failure_reason), UPDATE (failure_reason) ON refunds TO commerce_worker;
    END IF;
    -- What staff wrote may name people: readers do not see it.
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        REVOKE SELECT ON refunds FROM commerce_readonly;
        GRANT SELECT (
            id, order_id, stripe_payment_intent_id, amount_minor, cause, restock, status, stripe_refund_id,
            failure_reason, created_at, updated_at, next_attempt_at, attempts
        ) ON refunds TO commerce_readonly;
    END IF;
END
$$;
