-- What Stripe captured when it is not what the order asked for. Such a payment is refunded whole.
--
-- depends: 0018.cart_items_without_product_fkey
-- phase: expand
-- lock: ACCESS EXCLUSIVE on payments, briefly: the columns have no default, and old rows are not read
-- undo: drops the columns and reads all payments; of a payment of another amount only the status stays

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- In minor units. Both are null when exactly amount_minor in currency was captured.
ALTER TABLE payments ADD COLUMN captured_minor bigint;
ALTER TABLE payments ADD COLUMN captured_currency text;
-- IS TRUE, because a CHECK accepts a row for which its condition is null.
ALTER TABLE payments ADD CONSTRAINT payments_captured_form CHECK (
    (captured_minor IS NULL AND captured_currency IS NULL)
    OR (
        captured_minor > 0
        AND captured_currency ~ '^[A-Z]{3}$'
        AND (captured_minor <> amount_minor OR captured_currency <> currency)
        AND status IN ('REFUND_PENDING', 'REFUNDED')
    ) IS TRUE
) NOT VALID;
-- The same rules for the captured amount.
-- squawk-ignore ban-drop-constraint
ALTER TABLE payments DROP CONSTRAINT payments_refunded_within_amount;
ALTER TABLE payments ADD CONSTRAINT payments_refunded_within_amount CHECK (
    refunded_minor BETWEEN 0 AND coalesce(captured_minor, amount_minor)
) NOT VALID;
-- squawk-ignore ban-drop-constraint
ALTER TABLE payments DROP CONSTRAINT payments_refunded_whole;
ALTER TABLE payments ADD CONSTRAINT payments_refunded_whole CHECK (
    status <> 'REFUNDED' OR refunded_minor = coalesce(captured_minor, amount_minor)
) NOT VALID;

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT UPDATE (captured_minor, captured_currency) ON payments TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT UPDATE (captured_minor, captured_currency) ON payments TO commerce_worker;
    END IF;
END
$$;
