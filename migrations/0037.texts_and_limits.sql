-- Slugs and names in the form that the service accepts; the cart that replaces one; limits of free holds.
--
-- depends: 0035.stuck_items
-- phase: expand
-- lock: ACCESS EXCLUSIVE on categories, products, carts and orders, briefly: old texts are read and corrected before
-- undo: drops the constraints, the columns and the measurement of holds

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Older code accepted a few slugs in another normal form, and control characters in names.
-- Where two slugs would become equal, their ids tell them apart.
UPDATE categories
SET
    slug = CASE
        WHEN EXISTS (
            SELECT
            FROM categories AS other
            WHERE normalize(other.slug) = normalize(categories.slug) AND other.id <> categories.id
        ) THEN rtrim(left(normalize(slug), 180), '-') || '-' || id
        ELSE normalize(slug)
    END
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

-- The most units in one line of this product; null: the setting MAX_PER_ORDER.
ALTER TABLE products ADD COLUMN max_per_order integer;
ALTER TABLE products ADD CONSTRAINT products_max_per_order_range CHECK (max_per_order BETWEEN 1 AND 9999) NOT VALID;

-- A keyed digest of the client's /48, if its address is IPv6.
ALTER TABLE orders ADD COLUMN client_network bytea;
ALTER TABLE orders ADD CONSTRAINT orders_client_network_form CHECK (octet_length(client_network) = 16) NOT VALID;

-- One row, which the worker replaces every ten seconds.
CREATE TABLE hold_pressure (
    id boolean NOT NULL DEFAULT true,
    measured_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The products with more units in unpaid holds than in stock.
    product_ids bigint[] NOT NULL DEFAULT '{}',
    -- Units in unpaid holds, as a part of these and the units in stock, of all products with such holds.
    units_on_hold_ratio double precision NOT NULL DEFAULT 0,
    CONSTRAINT hold_pressure_pkey PRIMARY KEY (id),
    CONSTRAINT hold_pressure_one_row CHECK (id),
    -- An endless time would be the last measurement for ever.
    CONSTRAINT hold_pressure_time_ends CHECK (measured_at < 'infinity'),
    CONSTRAINT hold_pressure_ratio_range CHECK (units_on_hold_ratio BETWEEN 0 AND 1)
);
INSERT INTO hold_pressure DEFAULT VALUES;
INSERT INTO worker_heartbeats (loop) VALUES ('measure_holds');

-- Blocks, as in 0007.roles. The API and the worker both settle late payments.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (currency), UPDATE (replaced_by) ON carts TO commerce_app;
        GRANT INSERT (max_per_order), UPDATE (max_per_order) ON products TO commerce_app;
        GRANT INSERT (client_network) ON orders TO commerce_app;
        GRANT SELECT ON hold_pressure TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT INSERT (id, currency), UPDATE (currency, replaced_by) ON carts TO commerce_worker;
        GRANT INSERT (cart_id, product_id, quantity), DELETE ON cart_items TO commerce_worker;
        GRANT SELECT, UPDATE (measured_at, product_ids, units_on_hold_ratio) ON hold_pressure TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON hold_pressure TO commerce_readonly;
    END IF;
END
$$;

COMMENT ON COLUMN carts.replaced_by IS 'The new cart of its lines, once a late payment gave it its order''s; else null';
COMMENT ON COLUMN products.max_per_order IS 'The most units in one line; null for the setting MAX_PER_ORDER.';
COMMENT ON COLUMN orders.client_network IS
'A keyed digest of the client''s /48, while an IPv6 client''s pending orders are limited; else null.';
COMMENT ON TABLE hold_pressure IS 'Which products are mostly in unpaid holds: one row, which the worker replaces.';
COMMENT ON COLUMN hold_pressure.id IS 'Always true, so that there is one row.';
COMMENT ON COLUMN hold_pressure.measured_at IS 'When it was measured.';
COMMENT ON COLUMN hold_pressure.product_ids IS 'Products with more units in unpaid holds than in stock.';
COMMENT ON COLUMN hold_pressure.units_on_hold_ratio IS
'Units in unpaid holds, as a part of these and the units in stock, of products with such holds.';
