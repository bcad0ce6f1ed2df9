-- Loses how far the audit has come, its known violations, and the claims of running tasks.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

UPDATE reconcile_positions SET reached_at = reached_at + interval '10 minutes' WHERE list = 'events';
DELETE FROM reconcile_positions WHERE list = 'sessions';

DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE SELECT ON SEQUENCE order_events_id_seq, stock_movements_id_seq FROM commerce_worker;
    END IF;
END
$$;

ALTER TABLE worker_heartbeats DROP COLUMN claimed_until;
ALTER TABLE worker_heartbeats DROP COLUMN claimed_at;
ALTER TABLE worker_heartbeats DROP COLUMN claimed_by;

DROP TABLE audit_passes;
DROP TABLE audit_violations;
DROP TABLE audit_balances;
DROP TABLE audit_positions;
