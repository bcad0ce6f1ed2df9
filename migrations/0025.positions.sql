-- What came after a position in the histories and ledgers, by id.
-- Such an index has one entry for 32 pages. Rows lie in the order of their ids: they are never changed or deleted.
--
-- depends: 0024.keys
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on order_events, stock_movements during each build: VACUUM and DDL wait
-- undo: drops the indexes; reading by position then reads all rows

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS order_events_position;

-- Autovacuum adds the entries of new pages; until then they are read by every search.
-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY order_events_position ON order_events
USING brin (id) WITH (pages_per_range = 32, autosummarize = on);

DROP INDEX CONCURRENTLY IF EXISTS stock_movements_position;

-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY stock_movements_position ON stock_movements
USING brin (id) WITH (pages_per_range = 32, autosummarize = on);
