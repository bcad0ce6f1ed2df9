-- The order's number beside its payment: code writes it from now on, 0066 fills it for old rows.
--
-- depends: 0064.orders_by_reference
-- phase: expand
-- lock: ACCESS EXCLUSIVE on payments, briefly, no row is read
-- undo: drops the copies of the number

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE payments ADD COLUMN order_number bigint;
COMMENT ON COLUMN payments.order_number IS
'The number of its order, by which payments of one status are listed. Null in rows of older code.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (order_number) ON payments TO commerce_app;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT (order_number) ON payments TO commerce_readonly;
    END IF;
END
$$;
