-- Categories and products.
--
-- depends:
-- phase: expand
-- lock: none; the tables are new
-- undo: drops every category and product

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE categories (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    slug text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT categories_pkey PRIMARY KEY (id),
    CONSTRAINT categories_slug_unique UNIQUE (slug),
    CONSTRAINT categories_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT categories_slug_length CHECK (char_length(slug) BETWEEN 1 AND 200)
);

-- Free space in each page lets an update of the stock stay on its page (HOT) and skip the indexes.
CREATE TABLE products (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    category_id bigint,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    stock integer NOT NULL,
    active boolean NOT NULL DEFAULT true,
    -- Counts edits by staff. Stock moves do not count: otherwise If-Match would fail after every sale.
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT products_pkey PRIMARY KEY (id),
    CONSTRAINT products_category_fkey FOREIGN KEY (category_id) REFERENCES categories (id),
    CONSTRAINT products_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT products_description_length CHECK (char_length(description) <= 10000),
    CONSTRAINT products_price_range CHECK (price_minor BETWEEN 1 AND 99999999),
    CONSTRAINT products_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT products_stock_not_negative CHECK (stock >= 0),
    -- Twice what staff may enter, so that units on hold can always be released.
    CONSTRAINT products_stock_bounded CHECK (stock <= 2000000000),
    CONSTRAINT products_version_positive CHECK (version > 0)
) WITH (fillfactor = 80);

-- Keyset pages of active products, however many are inactive.
CREATE INDEX products_active ON products (id) WHERE active;

-- Keyset pages of one category. The first column also serves the foreign key when a category is deleted.
CREATE INDEX products_by_category ON products (category_id, active, id);
