-- The stock ledger: every change of a product's stock, with its reason.
--
-- depends: 0003.orders
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on products and orders for the foreign keys, briefly
-- undo: drops the ledger; products keep their stock

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE stock_movements (
    id bigint GENERATED ALWAYS AS IDENTITY,
    product_id bigint NOT NULL,
    delta integer NOT NULL,
    reason text NOT NULL,
    -- Both null for a delivery or a correction by staff.
    order_id uuid,
    hold integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stock_movements_pkey PRIMARY KEY (id),
    CONSTRAINT stock_movements_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT stock_movements_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT stock_movements_delta_not_zero CHECK (delta <> 0),
    CONSTRAINT stock_movements_reason_length CHECK (char_length(reason) BETWEEN 1 AND 200),
    CONSTRAINT stock_movements_order_form CHECK (
        CASE
            WHEN order_id IS NULL THEN hold IS NULL
            ELSE hold IS NOT NULL AND ((reason = 'hold' AND delta < 0) OR (reason = 'release' AND delta > 0))
        END
    )
);

-- One hold takes a product's units once and releases them once, even if its request is repeated.
CREATE UNIQUE INDEX stock_movements_once ON stock_movements (order_id, product_id, hold, reason)
WHERE order_id IS NOT NULL;
CREATE INDEX stock_movements_by_product ON stock_movements (product_id, id);
