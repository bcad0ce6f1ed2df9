-- A storefront's own name of a cart, which goes with its order.
--
-- depends: 0062.products_by_sku
-- phase: expand
-- lock: ACCESS EXCLUSIVE on carts and orders, briefly, no row is read
-- undo: drops the references

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE carts ADD COLUMN reference text;
ALTER TABLE orders ADD COLUMN reference text;
-- No control characters, no line breaks, and none that reverse the text around them.
ALTER TABLE carts ADD CONSTRAINT carts_reference_form CHECK (
    char_length(reference) BETWEEN 1 AND 255
    AND reference COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_reference_form CHECK (
    char_length(reference) BETWEEN 1 AND 255
    AND reference COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
-- As of orders.email: statistics would keep values that were erased.
ALTER TABLE carts ALTER COLUMN reference SET STATISTICS 0;
ALTER TABLE orders ALTER COLUMN reference SET STATISTICS 0;
COMMENT ON COLUMN carts.reference IS 'What the storefront calls it; its order gets it. Null: none.';
COMMENT ON COLUMN orders.reference IS 'The reference of its cart at the checkout; null: none, or erased.';

-- Blocks, as in 0007.roles. Readers do not see a reference: it may name a person.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (reference) ON carts, orders TO commerce_app;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT SELECT (reference), UPDATE (reference) ON carts, orders TO commerce_eraser;
    END IF;
END
$$;
