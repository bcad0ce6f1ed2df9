-- When each loop of the worker ran last.
--
-- depends: 0013.stripe_events_unhandled
-- phase: expand
-- lock: none; the table is new
-- undo: drops the heartbeats; workers of the new code then fail to record theirs

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- One row for each loop, whichever worker runs it.
CREATE TABLE worker_heartbeats (
    loop text NOT NULL,
    beat_at timestamptz NOT NULL DEFAULT now(),
    -- When the next run is overdue.
    due_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT worker_heartbeats_pkey PRIMARY KEY (loop)
);

INSERT INTO worker_heartbeats (loop) VALUES ('heartbeat'), ('sweep'), ('reconcile'), ('audit'), ('tidy');

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, UPDATE (beat_at, due_at) ON worker_heartbeats TO commerce_worker;
    END IF;
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT ON worker_heartbeats TO commerce_app;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON worker_heartbeats TO commerce_readonly;
    END IF;
END
$$;
