-- A user's own carts.
-- Validates what 0058 says of old rows.
--
-- depends: 0058.owners
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on carts during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each list of a user's own then reads all carts

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE carts VALIDATE CONSTRAINT carts_user_id_form;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS carts_by_user;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY carts_by_user ON carts (user_id, id) WHERE user_id IS NOT NULL;
