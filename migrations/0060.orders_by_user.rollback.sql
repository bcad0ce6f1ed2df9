-- Loses the index and no data; each list of a user's own then reads all orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_user;

-- A validated constraint cannot be marked as not validated, so each is created again. One statement: stopped after a
-- DROP, this could run again, but the migration itself could not.
SET lock_timeout = '2s';
ALTER TABLE orders
DROP CONSTRAINT IF EXISTS orders_user_id_form,
DROP CONSTRAINT IF EXISTS orders_claimed_has_owner,
ADD CONSTRAINT orders_user_id_form CHECK (
    char_length(user_id) BETWEEN 1 AND 255
    AND user_id COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID,
ADD CONSTRAINT orders_claimed_has_owner CHECK (user_id IS NOT NULL OR NOT claimed) NOT VALID;
