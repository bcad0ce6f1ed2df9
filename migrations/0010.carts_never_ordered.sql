-- Carts that may have been left behind, oldest first. By their creation: an edit moves no entry of it (HOT).
--
-- depends: 0009.orders_by_cart
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on carts while it is built: VACUUM and DDL wait, nobody who reads or writes does
-- undo: drops the index; retention then reads all carts

-- It waits for every older transaction, and holds nothing meanwhile that the shop wants.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- What a run that was killed left behind.
DROP INDEX CONCURRENTLY IF EXISTS carts_never_ordered;

-- In no transaction, and gone for certain.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY carts_never_ordered ON carts (created_at) WHERE ordered_at IS NULL;
