-- Where the goods of an order go, as the customer told Stripe Checkout.
-- A table of its own, so that an order without an address costs nothing.
--
-- depends: 0076.refund_items_valid
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the addresses; Stripe keeps them at its sessions

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE order_shipping (
    order_id uuid NOT NULL,
    name text,
    phone text,
    line1 text,
    line2 text,
    city text,
    state text,
    postal_code text,
    country text,
    CONSTRAINT order_shipping_pkey PRIMARY KEY (order_id),
    CONSTRAINT order_shipping_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT order_shipping_lengths CHECK (
        greatest(
            char_length(name), char_length(phone), char_length(line1), char_length(line2), char_length(city),
            char_length(state), char_length(postal_code), char_length(country)
        ) <= 500
    )
);
-- ANALYZE copies some of a column's values into the statistics, where nobody would erase them.
ALTER TABLE order_shipping
ALTER COLUMN name SET STATISTICS 0,
ALTER COLUMN phone SET STATISTICS 0,
ALTER COLUMN line1 SET STATISTICS 0,
ALTER COLUMN line2 SET STATISTICS 0,
ALTER COLUMN city SET STATISTICS 0,
ALTER COLUMN state SET STATISTICS 0,
ALTER COLUMN postal_code SET STATISTICS 0,
ALTER COLUMN country SET STATISTICS 0;
COMMENT ON TABLE order_shipping IS
'Where an order goes, as the customer told Stripe. Erasing the order deletes the row.';
COMMENT ON COLUMN order_shipping.order_id IS 'The order.';
COMMENT ON COLUMN order_shipping.name IS 'Who receives it.';
COMMENT ON COLUMN order_shipping.phone IS 'Their phone number.';
COMMENT ON COLUMN order_shipping.line1 IS 'Street, or the like.';
COMMENT ON COLUMN order_shipping.line2 IS 'Flat, building or the like.';
COMMENT ON COLUMN order_shipping.city IS 'City or village.';
COMMENT ON COLUMN order_shipping.state IS 'State, county or province.';
COMMENT ON COLUMN order_shipping.postal_code IS 'Postal code.';
COMMENT ON COLUMN order_shipping.country IS 'ISO 3166-1 alpha-2.';

-- Blocks, as in 0007.roles. Readers see nothing of it.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT, INSERT (order_id, name, phone, line1, line2, city, state, postal_code, country)
        ON order_shipping TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT (order_id), INSERT (order_id, name, phone, line1, line2, city, state, postal_code, country)
        ON order_shipping TO commerce_worker;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT SELECT (order_id), DELETE ON order_shipping TO commerce_eraser;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT (order_id) ON order_shipping TO commerce_readonly;
    END IF;
END
$$;
