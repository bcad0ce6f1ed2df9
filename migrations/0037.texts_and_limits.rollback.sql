-- Loses which cart replaced another, and the limits of products; the service alone then checks names and slugs.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE products DROP CONSTRAINT products_name_form;
ALTER TABLE categories DROP CONSTRAINT categories_name_form, DROP CONSTRAINT categories_slug_form;
ALTER TABLE carts DROP COLUMN replaced_by;
ALTER TABLE products DROP COLUMN max_per_order;
ALTER TABLE orders DROP COLUMN client_network;
DROP TABLE hold_pressure;
DELETE FROM worker_heartbeats
WHERE loop = 'measure_holds';

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
