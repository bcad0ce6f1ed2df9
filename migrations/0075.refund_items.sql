-- The order lines that a refund names, and the units that a refund returned to the stock.
--
-- depends: 0070.search
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on refunds for the foreign key; ACCESS EXCLUSIVE on stock_movements, whose rows are not
--       read; both briefly
-- undo: drops the lines; units that refunds returned count as released if they ended a line, else as moved by staff

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE refund_items (
    refund_id uuid NOT NULL,
    -- A product of the refund's order. No foreign key: an audit compares the quantities.
    product_id bigint NOT NULL,
    quantity integer NOT NULL,
    restock boolean NOT NULL,
    CONSTRAINT refund_items_pkey PRIMARY KEY (refund_id, product_id),
    CONSTRAINT refund_items_refund_fkey FOREIGN KEY (refund_id) REFERENCES refunds (id),
    CONSTRAINT refund_items_quantity_range CHECK (quantity BETWEEN 1 AND 9999)
);
COMMENT ON TABLE refund_items IS 'The units that a refund by line is for. A refund by amount has none. Only grows.';
COMMENT ON COLUMN refund_items.refund_id IS 'The refund.';
COMMENT ON COLUMN refund_items.product_id IS 'The order''s line.';
COMMENT ON COLUMN refund_items.quantity IS 'The refunded units, at the line''s unit_price_minor.';
COMMENT ON COLUMN refund_items.restock IS 'Whether they return to the stock once the refund succeeds.';

-- A refund may return a part of a hold's units. Its id in the reason makes each return one row (stock_movements_once).
-- The code before this writes `release` only.
ALTER TABLE stock_movements
-- squawk-ignore ban-drop-constraint
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
COMMENT ON COLUMN stock_movements.reason IS
'For an order: hold, release, or refund: with the id of the refund that returned the units. Else what staff wrote.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT, INSERT (refund_id, product_id, quantity, restock) ON refund_items TO commerce_app;
    END IF;
    -- The worker makes failed refunds of cancelled orders again, with their lines.
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, INSERT (refund_id, product_id, quantity, restock) ON refund_items TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON refund_items TO commerce_readonly;
    END IF;
END
$$;
