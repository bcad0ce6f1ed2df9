-- search/find_similar: words of the catalogue that are like a word and at most one letter longer or shorter.
-- pg_trgm misses words that differ by two letters swapped in the middle, so those are looked up as they are.
--
-- callers  service.shop.search._correct
-- param    $1 word text
-- param    $2 swapped text[]
-- returns  many by similarity(word, $1) descending, word; none = no word is like it
-- locks    none
-- waits    none
-- index    search_words_similar, search_words_pkey
-- rows     0..100 by LIMIT, usually 3
-- guards   none
SELECT word
FROM search_words
WHERE (word % $1 OR word = any($2)) AND char_length(word) BETWEEN char_length($1) - 1 AND char_length($1) + 1
ORDER BY similarity(word, $1) DESC, word
LIMIT 100;
