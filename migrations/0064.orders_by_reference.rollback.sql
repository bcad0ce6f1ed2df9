-- Loses the index and no data; each search for a reference then reads all orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_reference;

-- A validated constraint cannot be marked as not validated, so each is created again. One statement a table: stopped
-- after a DROP, this could run again, but the migration itself could not.
SET lock_timeout = '2s';
ALTER TABLE carts
DROP CONSTRAINT IF EXISTS carts_reference_form,
ADD CONSTRAINT carts_reference_form CHECK (
    char_length(reference) BETWEEN 1 AND 255
    AND reference COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE orders
DROP CONSTRAINT IF EXISTS orders_reference_form,
ADD CONSTRAINT orders_reference_form CHECK (
    char_length(reference) BETWEEN 1 AND 255
    AND reference COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
