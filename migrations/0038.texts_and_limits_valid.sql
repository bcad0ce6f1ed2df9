-- Validates the constraints of 0037 for old rows.
--
-- depends: 0037.texts_and_limits
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on categories, products, carts and orders while they are read: only VACUUM and DDL wait
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE categories VALIDATE CONSTRAINT categories_slug_form;
ALTER TABLE categories VALIDATE CONSTRAINT categories_name_form;
ALTER TABLE products VALIDATE CONSTRAINT products_name_form;
ALTER TABLE products VALIDATE CONSTRAINT products_max_per_order_range;
ALTER TABLE orders VALIDATE CONSTRAINT orders_client_network_form;
ALTER TABLE carts VALIDATE CONSTRAINT carts_replaced_by_another;
