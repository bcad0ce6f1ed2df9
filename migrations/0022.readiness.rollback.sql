-- Loses the heartbeat of the worker's task that deletes expired rows.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DELETE FROM worker_heartbeats
WHERE loop = 'delete_expired';

DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        REVOKE SELECT (migration_id) ON _yoyo_migration FROM commerce_app;
    END IF;
END
$$;
