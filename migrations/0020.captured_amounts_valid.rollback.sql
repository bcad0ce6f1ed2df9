-- Loses the index, and no data; the audit then reads all payments for it.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS payments_captured_otherwise;

-- A validated constraint cannot be declared unvalidated, so each is made anew. Run again, this does the same again.
SET lock_timeout = '2s';
ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_captured_form;
ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_refunded_within_amount;
ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_refunded_whole;
ALTER TABLE payments ADD CONSTRAINT payments_captured_form CHECK (
    (captured_minor IS NULL AND captured_currency IS NULL)
    OR (
        captured_minor > 0
        AND captured_currency ~ '^[A-Z]{3}$'
        AND (captured_minor <> amount_minor OR captured_currency <> currency)
        AND status IN ('REFUND_PENDING', 'REFUNDED')
    ) IS TRUE
) NOT VALID;
ALTER TABLE payments ADD CONSTRAINT payments_refunded_within_amount CHECK (
    refunded_minor BETWEEN 0 AND coalesce(captured_minor, amount_minor)
) NOT VALID;
ALTER TABLE payments ADD CONSTRAINT payments_refunded_whole CHECK (
    status <> 'REFUNDED' OR refunded_minor = coalesce(captured_minor, amount_minor)
) NOT VALID;
