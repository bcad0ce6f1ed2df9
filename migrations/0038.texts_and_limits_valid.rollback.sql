-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so each is created again.
ALTER TABLE categories
DROP CONSTRAINT categories_slug_form,
DROP CONSTRAINT categories_name_form,
ADD CONSTRAINT categories_slug_form CHECK (
    slug IS NORMALIZED
    AND slug COLLATE "C"
    !~ '[\u0001-\u002c\u002e-\u002f\u003a-\u0060\u007b-\u00a9\u2000-\u206f]|(^|-)(-|$)'
) NOT VALID,
ADD CONSTRAINT categories_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE products
DROP CONSTRAINT products_name_form,
DROP CONSTRAINT products_max_per_order_range,
ADD CONSTRAINT products_max_per_order_range CHECK (max_per_order BETWEEN 1 AND 9999) NOT VALID,
ADD CONSTRAINT products_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE orders
DROP CONSTRAINT orders_client_network_form,
ADD CONSTRAINT orders_client_network_form CHECK (octet_length(client_network) = 16) NOT VALID;
ALTER TABLE carts
DROP CONSTRAINT carts_replaced_by_another,
ADD CONSTRAINT carts_replaced_by_another CHECK (replaced_by <> id) NOT VALID;
