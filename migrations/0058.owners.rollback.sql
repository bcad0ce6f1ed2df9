-- Loses who owns which cart and order: each id is enough again to read and change it.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        -- Revoking a right on a table revokes it on the table's columns too.
        REVOKE SELECT ON carts FROM commerce_readonly;
        GRANT SELECT ON carts TO commerce_readonly;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        REVOKE ALL ON carts FROM commerce_eraser;
        REVOKE SELECT (cart_id) ON orders FROM commerce_eraser;
    END IF;
END
$$;

ALTER TABLE orders DROP COLUMN claimed;
ALTER TABLE orders DROP COLUMN user_id;
ALTER TABLE carts DROP COLUMN user_id;
