-- Loses the article numbers of products, and the addresses of their pictures.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE products DROP COLUMN image_url;
ALTER TABLE products DROP COLUMN sku;
