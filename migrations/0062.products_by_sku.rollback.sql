-- Loses the index and no data; two products may then have one sku.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS products_sku_unique;

-- A validated constraint cannot be marked as not validated, so each is created again. One statement: stopped after a
-- DROP, this could run again, but the migration itself could not.
SET lock_timeout = '2s';
ALTER TABLE products
DROP CONSTRAINT IF EXISTS products_sku_form,
DROP CONSTRAINT IF EXISTS products_image_url_form,
ADD CONSTRAINT products_sku_form CHECK (sku ~ '^[A-Za-z0-9._-]{1,64}$') NOT VALID,
ADD CONSTRAINT products_image_url_form CHECK (
    char_length(image_url) <= 2048
    AND image_url COLLATE "C" ~ '^https://[^\u0001-\u0020\u007f-\u00a0\u2028-\u202e\u2066-\u2069]+$'
) NOT VALID;
