-- Slugs and names in the form that the service accepts; the cart that replaces one.
--
-- depends: 0022.readiness
-- phase: expand
-- lock: ACCESS EXCLUSIVE on categories, products and carts, briefly: old texts are read and corrected before
-- undo: drops the constraints and the column

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Older code accepted a few slugs in another normal form, and control characters in names.
UPDATE categories SET slug = normalize(slug)
WHERE slug IS NOT NORMALIZED;
UPDATE categories SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', ' ', 'g')
WHERE name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]';
UPDATE products SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', ' ', 'g')
WHERE name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]';

-- Words with single dashes between. Of the characters that are neither letter, mark nor digit: those of ASCII, and the
-- general punctuation. PostgreSQL cannot tell the others, because its classes of characters depend on the collation.
ALTER TABLE categories ADD CONSTRAINT categories_slug_form CHECK (
    slug IS NORMALIZED
    AND slug COLLATE "C"
    !~ '[\u0001-\u002c\u002e-\u002f\u003a-\u0060\u007b-\u00a9\u2000-\u206f]|(^|-)(-|$)'
) NOT VALID;
-- No control characters, no line breaks, and none that reverse the text around them.
ALTER TABLE categories ADD CONSTRAINT categories_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE products ADD CONSTRAINT products_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;

-- Where the lines of a cart went that a late payment checked out again with the lines of its order. No foreign key:
-- it would need an index, or each deletion of an abandoned cart would read all carts. Reading omits a deleted cart.
ALTER TABLE carts ADD COLUMN replaced_by uuid;
ALTER TABLE carts ADD CONSTRAINT carts_replaced_by_another CHECK (replaced_by <> id) NOT VALID;

-- Blocks, as in 0007.roles. The API and the worker both settle late payments.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (currency), UPDATE (replaced_by) ON carts TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT INSERT (id, currency), UPDATE (currency, replaced_by) ON carts TO commerce_worker;
        GRANT INSERT (cart_id, product_id, quantity), DELETE ON cart_items TO commerce_worker;
    END IF;
END
$$;

COMMENT ON COLUMN carts.replaced_by IS 'The new cart of its lines, once a late payment gave it its order''s; else null';
