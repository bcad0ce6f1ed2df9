-- Carts and their lines.
--
-- depends: 0001.catalog
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on products for the foreign key, briefly
-- undo: drops every cart

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE carts (
    id uuid NOT NULL,
    status text NOT NULL DEFAULT 'OPEN',
    -- Set with the first line and cleared with the last, so that a cart has one currency.
    currency text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT carts_pkey PRIMARY KEY (id),
    CONSTRAINT carts_status_known CHECK (status IN ('OPEN', 'CHECKED_OUT')),
    CONSTRAINT carts_currency_form CHECK (currency ~ '^[A-Z]{3}$')
) WITH (fillfactor = 80);

CREATE TABLE cart_items (
    cart_id uuid NOT NULL,
    product_id bigint NOT NULL,
    quantity integer NOT NULL,
    CONSTRAINT cart_items_pkey PRIMARY KEY (cart_id, product_id),
    CONSTRAINT cart_items_cart_fkey FOREIGN KEY (cart_id) REFERENCES carts (id) ON DELETE CASCADE,
    CONSTRAINT cart_items_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT cart_items_quantity_range CHECK (quantity BETWEEN 1 AND 9999)
);
