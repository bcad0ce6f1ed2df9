-- Loses which lines were refunded, and which refund returned units. Where one refund returned a line of a cancelled
-- order, or of a fulfilled one with `restock`, its units count as released. All others count as moved by staff: the
-- code before this returns them again if it cancels their order, and audit/units_add_up reports a line of a cancelled
-- order that came back in several parts.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- No row is added or removed: audit_balances has the sum of those that it has read.
UPDATE stock_movements SET reason = 'release'
FROM orders
WHERE
    stock_movements.order_id = orders.id
    AND stock_movements.reason LIKE 'refund:%'
    AND (
        orders.status = 'CANCELLED'
        OR (
            orders.status = 'FULFILLED'
            AND orders.id IN (SELECT order_id FROM refunds WHERE restock AND status = 'SUCCEEDED')
        )
    )
    AND NOT EXISTS (
        SELECT
        FROM stock_movements AS other
        WHERE
            other.order_id = stock_movements.order_id
            AND other.product_id = stock_movements.product_id
            AND other.hold = stock_movements.hold
            AND other.delta > 0
            AND other.id <> stock_movements.id
    );
UPDATE stock_movements SET
    order_id = NULL,
    hold = NULL
WHERE order_id IS NOT NULL AND reason LIKE 'refund:%';

DROP TABLE refund_items;

-- Not validated, because all writers wait for this lock. The updates above left no row that contradicts it.
ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_order_form,
ADD CONSTRAINT stock_movements_order_form CHECK (
    CASE
        WHEN order_id IS NULL THEN hold IS NULL
        ELSE hold IS NOT NULL AND ((reason = 'hold' AND delta < 0) OR (reason = 'release' AND delta > 0))
    END
) NOT VALID;
COMMENT ON COLUMN stock_movements.reason IS 'hold or release for an order; else what staff wrote.';
