-- search/index_products: make the search rows of products equal to the products; those off sale have none.
-- Words are lower-case and without accents; each is there as it is, for prefixes, and as the language's stem.
-- Those of the name are there twice, the second time with a leading `=`; the category is `#12`, the currency `$EUR`.
-- Scripts without spaces between words (Thai, Lao, Khmer, Burmese, Chinese, Japanese) are cut into pairs of characters.
-- search/split_query treats a query in the same way.
--
-- callers  service.shop.search.index
-- param    $1 product_ids bigint[]
-- param    $2 language text
-- returns  none
-- locks    products NO KEY UPDATE by id; product_search UPDATE in no order; new product_search, search_words; to
--          commit
-- waits    on products for edits and stock moves; 55P03 after lock_timeout -> busy; a transaction that adds the same
--          new word may delay it
-- index    products_pkey, product_search_pkey, search_words_pkey
-- rows     0..n, usually 1
-- guards   none
WITH product AS MATERIALIZED (
    SELECT
        id,
        version,
        name,
        description,
        category_id,
        price_minor,
        currency,
        active
    FROM products
    WHERE id = any($1)
    ORDER BY id
    FOR NO KEY UPDATE
),

-- A name has no line break.
folded AS (
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        replace(
            translate(
                lower(
                    normalize(
                        regexp_replace(normalize(name || E'\n' || description, nfkd), '[\u0300-\u036f]', '', 'g'), nfc
                    )
                ),
                'ςøđłı',
                'σodli'
            ),
            'ß',
            'ss'
        ) AS text
    FROM product
    WHERE active
),

part AS MATERIALIZED (
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        split_part(text, E'\n', 1) AS name_key,
        '' AS mark,
        text
    FROM folded
    UNION ALL
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        split_part(text, E'\n', 1),
        '=',
        split_part(text, E'\n', 1)
    FROM folded
),

unspaced AS (
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        name_key,
        mark,
        (regexp_matches(
            text,
            '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf'
            '\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+',
            'g'
        ))[1] AS text
    FROM part
),

lexeme AS (
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        name_key,
        mark,
        unnest(
            tsvector_to_array(
                to_tsvector('simple', spaced)
                || CASE WHEN $2 = 'simple' THEN '' ELSE to_tsvector($2::text::regconfig, spaced) END
            )
        ) AS word
    FROM part
    CROSS JOIN
        regexp_replace(
            text,
            '[!-/:-@[-`{-~\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf'
            '\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+',
            ' ',
            'g'
        ) AS spaced
    UNION ALL
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        name_key,
        mark,
        substr(text, generate_series(1, char_length(text)), 2)
    FROM unspaced
    UNION ALL
    -- Every product has these, even one whose name has no word.
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        name_key,
        '$',
        part.currency AS currency_word
    FROM part
    WHERE mark = '='
    UNION ALL
    SELECT
        id,
        version,
        category_id,
        price_minor,
        currency,
        name_key,
        '#',
        category_id::text
    FROM part
    WHERE mark = '=' AND category_id IS NOT NULL
),

indexed AS MATERIALIZED (
    SELECT
        id,
        version,
        price_minor,
        currency,
        name_key,
        array_agg(mark || word) AS words
    FROM lexeme
    WHERE char_length(word) <= 200
    GROUP BY id, version, price_minor, currency, name_key
),

new_word AS (
    INSERT INTO search_words (word)
    SELECT DISTINCT word
    FROM indexed
    CROSS JOIN unnest(indexed.words) AS word
    WHERE char_length(word) BETWEEN 4 AND 40 AND word !~ '[=$#0-9]'
    ORDER BY word
    ON CONFLICT (word) DO NOTHING
),

removed AS (
    DELETE FROM product_search
    USING product
    WHERE product_search.product_id = product.id AND NOT product.active
)

INSERT INTO product_search (product_id, version, language, words, name_key, price_minor, currency)
SELECT
    id,
    version,
    $2,
    array_to_tsvector(words),
    -- Some characters become many. An index entry has 2,704 bytes at most.
    left(name_key, 200),
    price_minor,
    currency
FROM indexed
ON CONFLICT (product_id) DO UPDATE SET
    version = excluded.version,
    language = excluded.language,
    words = excluded.words,
    name_key = excluded.name_key,
    price_minor = excluded.price_minor,
    currency = excluded.currency;
