-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so each is created again.
ALTER TABLE products
DROP CONSTRAINT products_price_range,
ADD CONSTRAINT products_price_range CHECK (price_minor BETWEEN 1 AND 999999999999) NOT VALID;
ALTER TABLE orders
DROP CONSTRAINT orders_total_range,
ADD CONSTRAINT orders_total_range CHECK (total_minor BETWEEN 1 AND 999999999999) NOT VALID;
