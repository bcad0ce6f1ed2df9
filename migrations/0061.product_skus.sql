-- A product's article number in the shop's other systems, and its picture.
--
-- depends: 0060.orders_by_user
-- phase: expand
-- lock: ACCESS EXCLUSIVE on products, briefly, no row is read
-- undo: drops the article numbers and the addresses of the pictures

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Collated by bytes: equality is all that is asked of it, and building its index takes half the time.
ALTER TABLE products ADD COLUMN sku text COLLATE "C";
ALTER TABLE products ADD COLUMN image_url text;
ALTER TABLE products ADD CONSTRAINT products_sku_form CHECK (sku ~ '^[A-Za-z0-9._-]{1,64}$') NOT VALID;
-- The service also reads the host. Here: no control characters, no spaces, and nothing that reverses the text.
ALTER TABLE products ADD CONSTRAINT products_image_url_form CHECK (
    char_length(image_url) <= 2048
    AND image_url COLLATE "C" ~ '^https://[^\u0001-\u0020\u007f-\u00a0\u2028-\u202e\u2066-\u2069]+$'
) NOT VALID;
COMMENT ON COLUMN products.sku IS 'The article number in the shop''s other systems; letter case counts. Null: none.';
COMMENT ON COLUMN products.image_url IS 'Where its picture is, at another service; null: none.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (sku, image_url), UPDATE (sku, image_url) ON products TO commerce_app;
    END IF;
END
$$;
