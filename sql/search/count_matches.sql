-- search/count_matches: how many products of a sample match each query within its prices, up to 16.
-- The sample is one product in 256: 16 in it are about 4,096 in the catalogue. With fewer, an index on the words finds
-- all of them faster; with more, a walk in the order of the page soon finds enough.
--
-- callers  service.shop.search._find
-- param    $1 queries text[]
-- param    $2 min_prices bigint[]
-- param    $3 max_prices bigint[]
-- returns  many by position
-- locks    none
-- waits    none
-- index    product_search_sample
-- rows     1..25 by service.shop.search.MAX_QUERIES, usually 3
-- guards   none
SELECT (
    SELECT count(*)
    FROM (
        SELECT
        FROM product_search
        WHERE
            product_id % 256 = 0
            AND words @@ asked.query::tsquery
            AND (price_minor BETWEEN asked.min_price AND asked.max_price) IS TRUE
        LIMIT 16 -- noqa: AM09
    ) AS matching
) AS matches
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS asked (query, min_price, max_price, position)
ORDER BY asked.position;
