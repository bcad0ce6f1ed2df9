-- Every order of a cart, cancelled ones too: what its foreign key looks for when a cart is removed.
--
-- depends: 0008.retention
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders while it is built: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; each cart that is removed then reads all orders

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_cart;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_cart ON orders (cart_id);
