-- How far Stripe's lists have been read.
--
-- depends: 0011.stripe_events_handled
-- phase: expand
-- lock: none; the table is new
-- undo: drops the position; created again, it starts at that time

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- One row for each list, updated by each run of reconcile.
CREATE TABLE reconcile_positions (
    list text NOT NULL,
    reached_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reconcile_positions_pkey PRIMARY KEY (list)
);

INSERT INTO reconcile_positions (list) VALUES ('events');

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, UPDATE (reached_at) ON reconcile_positions TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON reconcile_positions TO commerce_readonly;
    END IF;
END
$$;
