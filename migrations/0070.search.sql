-- What /search reads: a row for each product for sale, and the words that a mistyped one may stand for.
-- The tables are empty at first. The worker fills them, or `commerce-core index`.
--
-- depends: 0068.orders_by_email
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on products, briefly, for the new foreign key
-- undo: drops the index of the search; the extension pg_trgm stays

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE insufficient_privilege USING message = 'The search needs the extension pg_trgm, which this role may not '
        || 'create. Let an administrator run: psql --dbname=' || quote_ident(current_database())
        || ' --command=''CREATE EXTENSION pg_trgm''';
    WHEN feature_not_supported OR undefined_file THEN
        RAISE feature_not_supported USING message = 'The search needs the extension pg_trgm, which this server does '
        || 'not have. Install PostgreSQL''s contrib modules; on Debian: apt-get install postgresql-contrib';
END
$$;

-- By what it does: which setting decides depends on the version. Under LC_CTYPE C and POSIX, only ASCII has letters.
DO $$
BEGIN
    IF show_trgm('я') = '{}' OR NOT to_tsvector('simple', 'Я') @@ to_tsquery('simple', 'я') THEN
        RAISE feature_not_supported USING message = 'The search knows no letters beyond ASCII in this database, whose '
        || 'LC_CTYPE is ' || (SELECT datctype FROM pg_database WHERE datname = current_database())
        || '. Copy it into one with another: createdb --template=template0 --encoding=UTF8 --lc-collate=C '
        || '--lc-ctype=C.UTF-8 NEW && pg_dump ' || quote_ident(current_database()) || ' | psql --dbname=NEW';
    END IF;
END
$$;

CREATE TABLE product_search (
    product_id bigint,
    version integer NOT NULL,
    language text NOT NULL,
    words tsvector NOT NULL,
    name_key text COLLATE "C" NOT NULL,
    price_minor bigint NOT NULL,
    currency text NOT NULL,
    CONSTRAINT product_search_pkey PRIMARY KEY (product_id),
    CONSTRAINT product_search_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT product_search_language_length CHECK (char_length(language) BETWEEN 1 AND 63)
);
-- Without a pending list, which every search would read from its beginning to its end.
CREATE INDEX product_search_words ON product_search USING gin (words) WITH (fastupdate = off);
-- The sample from which search/count_matches extrapolates.
CREATE INDEX product_search_sample ON product_search USING gin (words) WITH (fastupdate = off)
WHERE product_id % 256 = 0;
CREATE INDEX product_search_by_price ON product_search (currency, price_minor, product_id);
CREATE INDEX product_search_by_name ON product_search (name_key, product_id);
-- With statistics, plans would change with the words that are common today.
ALTER TABLE product_search ALTER COLUMN words SET STATISTICS 0;
COMMENT ON TABLE product_search IS 'A row for each product for sale: what /search reads. Made from products.';
COMMENT ON COLUMN product_search.product_id IS 'The product, and its place among the newest.';
COMMENT ON COLUMN product_search.version IS 'products.version when the row was made.';
COMMENT ON COLUMN product_search.language IS 'The text search configuration that made its words: SEARCH_LANGUAGE.';
COMMENT ON COLUMN product_search.words IS
'The words of name and description; those of the name with a leading = too; #category and $currency.';
COMMENT ON COLUMN product_search.name_key IS 'The name as it is sorted: lower case, without accents.';
COMMENT ON COLUMN product_search.price_minor IS 'products.price_minor.';
COMMENT ON COLUMN product_search.currency IS 'products.currency.';

CREATE TABLE search_words (
    word text COLLATE "C",
    CONSTRAINT search_words_pkey PRIMARY KEY (word),
    CONSTRAINT search_words_word_length CHECK (char_length(word) BETWEEN 4 AND 40)
);
CREATE INDEX search_words_similar ON search_words USING gin (word gin_trgm_ops) WITH (fastupdate = off);
COMMENT ON TABLE search_words IS 'Words that products have or had; a mistyped word is taken for one of them.';
COMMENT ON COLUMN search_words.word IS 'Lower case, without accents and digits.';

INSERT INTO worker_heartbeats (loop) VALUES ('index_products');

-- Blocks, as in 0007.roles. The API indexes what staff edit, the worker what is missing.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['commerce_app', 'commerce_worker'] LOOP
        IF to_regrole(role) IS NOT NULL THEN
            EXECUTE format(
                'GRANT SELECT, DELETE, INSERT, UPDATE (version, language, words, name_key, price_minor, currency)'
                || ' ON product_search TO %I', role
            );
            EXECUTE format('GRANT SELECT, INSERT ON search_words TO %I', role);
        END IF;
    END LOOP;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON product_search, search_words TO commerce_readonly;
    END IF;
END
$$;
