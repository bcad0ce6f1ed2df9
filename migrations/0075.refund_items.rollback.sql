-- Loses which lines were refunded. Units that refunds returned stay in stock, as if staff had moved them.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE refund_items;

ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_order_form;
UPDATE stock_movements SET
    order_id = NULL,
    hold = NULL
WHERE order_id IS NOT NULL AND reason LIKE 'refund:%';
ALTER TABLE stock_movements
ADD CONSTRAINT stock_movements_order_form CHECK (
    CASE
        WHEN order_id IS NULL THEN hold IS NULL
        ELSE hold IS NOT NULL AND ((reason = 'hold' AND delta < 0) OR (reason = 'release' AND delta > 0))
    END
);
COMMENT ON COLUMN stock_movements.reason IS 'hold or release for an order; else what staff wrote.';
