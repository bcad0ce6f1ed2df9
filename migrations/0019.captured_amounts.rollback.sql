-- Loses captured amounts other than the order's; of such a payment only the status stays.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Values that the old and the new constraints accept.
UPDATE payments
SET
    refunded_minor = CASE status WHEN 'REFUNDED' THEN amount_minor ELSE 0 END,
    captured_minor = NULL,
    captured_currency = NULL
WHERE captured_minor IS NOT NULL;
ALTER TABLE payments DROP COLUMN captured_minor;
ALTER TABLE payments DROP COLUMN captured_currency;
ALTER TABLE payments ADD CONSTRAINT payments_refunded_within_amount CHECK (
    refunded_minor BETWEEN 0 AND amount_minor
);
ALTER TABLE payments ADD CONSTRAINT payments_refunded_whole CHECK (
    status <> 'REFUNDED' OR refunded_minor = amount_minor
);
