-- Signs of life of the workers.
--
-- depends: 0006.idempotency_keys
-- phase: expand
-- lock: none; the table is new
-- undo: drops the signs of life, which the workers of the new code then fail to write

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A row for each worker process, written every few seconds: half of a page is left for its next version.
CREATE TABLE worker_heartbeats (
    worker_id uuid NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    -- Its loops that have not come round in time, with commas between; empty when all have.
    late text NOT NULL,
    CONSTRAINT worker_heartbeats_pkey PRIMARY KEY (worker_id)
) WITH (fillfactor = 50);

-- Blocks, as a grant to a role that is not there would fail.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, INSERT (worker_id, late), UPDATE (seen_at, late), DELETE ON worker_heartbeats TO commerce_worker;
    END IF;
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT ON worker_heartbeats TO commerce_app;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON worker_heartbeats TO commerce_readonly;
    END IF;
END
$$;
