-- Loses the index of the search, which the worker makes again from the products after the next `migrate`.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE search_words;
DROP TABLE product_search;
DELETE FROM worker_heartbeats
WHERE loop = 'index_products';
