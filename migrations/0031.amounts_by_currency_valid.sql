-- Validates the constraints of 0030 for old rows.
--
-- depends: 0030.amounts_by_currency
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on products and orders while they are read: VACUUM and DDL wait, reads and writes do not
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE products VALIDATE CONSTRAINT products_price_range;
ALTER TABLE orders VALIDATE CONSTRAINT orders_total_range;
