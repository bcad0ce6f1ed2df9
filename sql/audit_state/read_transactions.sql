-- audit_state/read_transactions: the oldest transaction that writes, and the next one to begin.
--
-- callers  service.shop.audit._read_changes
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest,
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next;
