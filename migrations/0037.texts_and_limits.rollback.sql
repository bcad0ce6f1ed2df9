-- Loses which cart replaced another; names and slugs are then checked by the service alone.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE products DROP CONSTRAINT products_name_form;
ALTER TABLE categories DROP CONSTRAINT categories_name_form, DROP CONSTRAINT categories_slug_form;
ALTER TABLE carts DROP COLUMN replaced_by;

DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        REVOKE INSERT (currency) ON carts FROM commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE INSERT (id, currency), UPDATE (currency) ON carts FROM commerce_worker;
        REVOKE INSERT (cart_id, product_id, quantity), DELETE ON cart_items FROM commerce_worker;
    END IF;
END
$$;
