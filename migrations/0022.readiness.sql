-- What readiness reads: the API sees which migrations were applied, and the worker's task of deleting expired rows gets
-- a heartbeat under its own name.
--
-- depends: 0021.unmatched_payments
-- phase: expand
-- lock: none
-- undo: the new code's readiness then says not_migrated

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Workers of the old code still update the row 'tidy'.
INSERT INTO worker_heartbeats (loop) VALUES ('delete_expired');

-- A block, because a grant to a role that does not exist would fail.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT (migration_id) ON _yoyo_migration TO commerce_app;
    END IF;
END
$$;
