-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so each is created again.
ALTER TABLE payments
DROP CONSTRAINT payments_captured_form,
DROP CONSTRAINT payments_refunded_within_amount,
DROP CONSTRAINT payments_refunded_whole,
ADD CONSTRAINT payments_captured_form CHECK (
    (captured_minor IS NULL AND captured_currency IS NULL)
    OR (
        captured_minor > 0
        AND captured_currency ~ '^[A-Z]{3}$'
        AND (captured_minor <> amount_minor OR captured_currency <> currency)
        AND status IN ('REFUND_PENDING', 'REFUNDED')
    ) IS TRUE
) NOT VALID,
ADD CONSTRAINT payments_refunded_within_amount CHECK (
    refunded_minor BETWEEN 0 AND coalesce(captured_minor, amount_minor)
) NOT VALID,
ADD CONSTRAINT payments_refunded_whole CHECK (
    status <> 'REFUNDED' OR refunded_minor = coalesce(captured_minor, amount_minor)
) NOT VALID;
