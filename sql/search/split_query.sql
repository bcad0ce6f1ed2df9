-- search/split_query: the words of a query, as search/index_products stores them.
-- `stem` is the word as the language has it. Words such as `the` are left out, but for the last one, which may go on.
-- A text in a script without spaces between words comes back whole, as `unspaced`.
--
-- callers  service.shop.search._split
-- param    $1 query text
-- param    $2 language text
-- returns  many in no order; none = there is nothing to search for
-- locks    none
-- waits    none
-- index    none
-- rows     0..n, usually 2
-- guards   none
WITH folded AS (
    SELECT
        replace(
            translate(
                lower(normalize(regexp_replace(normalize($1, nfkd), '[\u0300-\u036f]', '', 'g'), nfc)),
                'ςøđłı',
                'σodli'
            ),
            'ß',
            'ss'
        ) AS text
),

spaced AS (
    SELECT
        word.lexeme AS text,
        (tsvector_to_array(to_tsvector($2::text::regconfig, word.lexeme)))[1] AS stem,
        word.positions[cardinality(word.positions)]
        = max(word.positions[cardinality(word.positions)]) OVER () AS last
    FROM folded
    CROSS JOIN
        unnest(
            to_tsvector(
                'simple',
                regexp_replace(
                    folded.text,
                    '[!-/:-@[-`{-~\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf'
                    '\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+',
                    ' ',
                    'g'
                )
            )
        ) AS word
)

SELECT
    text,
    coalesce(stem, text) AS stem,
    false AS unspaced
FROM spaced
WHERE stem IS NOT NULL OR last
UNION
SELECT
    part.texts[1],
    part.texts[1],
    true
FROM folded
CROSS JOIN
    regexp_matches(
        folded.text,
        '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf'
        '\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+',
        'g'
    ) AS part (texts);
