-- Loses every cart.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE cart_items;
DROP TABLE carts;
