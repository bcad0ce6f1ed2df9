-- Loses every category and product.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE products;
DROP TABLE categories;
