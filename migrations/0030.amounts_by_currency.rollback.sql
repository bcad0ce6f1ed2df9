-- Loses nothing: it fails while a price or a total is outside the old bounds.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Validated at once: a row that an unvalidated constraint contradicts could not be updated, so its order never ended.
ALTER TABLE products DROP CONSTRAINT products_price_range;
ALTER TABLE products ADD CONSTRAINT products_price_range CHECK (price_minor BETWEEN 1 AND 99999999);
ALTER TABLE orders DROP CONSTRAINT orders_total_range;
ALTER TABLE orders ADD CONSTRAINT orders_total_range CHECK (total_minor BETWEEN 50 AND 99999999);
