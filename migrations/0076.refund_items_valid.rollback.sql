-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so it is created again.
ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_order_form,
ADD CONSTRAINT stock_movements_order_form CHECK (
    CASE
        WHEN order_id IS NULL THEN hold IS NULL
        ELSE hold IS NOT NULL AND (
            (reason = 'hold' AND delta < 0)
            OR (reason = 'release' AND delta > 0)
            OR (reason ~ '^refund:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND delta > 0)
        )
    END
) NOT VALID;
