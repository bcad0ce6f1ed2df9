-- Wider bounds of prices and totals: each currency has limits of its own, which the service knows.
--
-- depends: 0028.comments_and_storage
-- phase: expand
-- lock: ACCESS EXCLUSIVE on products and orders, briefly: rows are not read
-- undo: reads both tables; fails, and changes nothing, while a price or a total is outside the old bounds

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-constraint
ALTER TABLE products DROP CONSTRAINT products_price_range;
ALTER TABLE products ADD CONSTRAINT products_price_range CHECK (
    price_minor BETWEEN 1 AND 999999999999
) NOT VALID;
-- squawk-ignore ban-drop-constraint
ALTER TABLE orders DROP CONSTRAINT orders_total_range;
ALTER TABLE orders ADD CONSTRAINT orders_total_range CHECK (
    total_minor BETWEEN 1 AND 999999999999
) NOT VALID;
