-- Loses no data; names and slugs are then checked by the service alone.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE products DROP CONSTRAINT products_name_form;
ALTER TABLE categories DROP CONSTRAINT categories_name_form, DROP CONSTRAINT categories_slug_form;
