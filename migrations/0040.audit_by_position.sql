-- What the audit remembers between two runs, and the claims by which one worker at a time runs a task.
--
-- depends: 0039.orders_pending_by_network
-- phase: expand
-- lock: ACCESS EXCLUSIVE on worker_heartbeats; SHARE UPDATE EXCLUSIVE on worker_heartbeats; both briefly
-- undo: drops the positions and the violations found: the audit then begins with the first order again

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE audit_positions (
    rule text NOT NULL,
    source text NOT NULL,
    -- Of order_events and stock_movements an id; of refunds a time in microseconds since 1970.
    position bigint NOT NULL DEFAULT 0,
    CONSTRAINT audit_positions_pkey PRIMARY KEY (rule, source),
    CONSTRAINT audit_positions_rule_length CHECK (char_length(rule) BETWEEN 1 AND 100),
    CONSTRAINT audit_positions_source_length CHECK (char_length(source) BETWEEN 1 AND 100),
    CONSTRAINT audit_positions_not_negative CHECK (position >= 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE audit_positions IS 'How far each audit rule has read what changes.';
COMMENT ON COLUMN audit_positions.rule IS 'The rule: a file under sql/audit/.';
COMMENT ON COLUMN audit_positions.source IS 'What is read: a table, or the balances of products.';
COMMENT ON COLUMN audit_positions.position IS 'Up to which id, or up to which microsecond since 1970.';

-- The row that fold_balances locks.
INSERT INTO audit_positions (rule, source) VALUES ('audit/stock_matches_ledger', 'balances');

CREATE TABLE audit_balances (
    product_id bigint NOT NULL,
    units bigint NOT NULL,
    CONSTRAINT audit_balances_pkey PRIMARY KEY (product_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE audit_balances IS 'For each product the sum of its stock movements up to the position "balances".';
COMMENT ON COLUMN audit_balances.product_id IS 'The product.';
COMMENT ON COLUMN audit_balances.units IS 'The sum of its movements'' delta.';

CREATE TABLE audit_violations (
    rule text NOT NULL,
    subject text NOT NULL,
    detail text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_violations_pkey PRIMARY KEY (rule, subject, detail),
    CONSTRAINT audit_violations_rule_length CHECK (char_length(rule) BETWEEN 1 AND 100),
    CONSTRAINT audit_violations_subject_length CHECK (char_length(subject) BETWEEN 1 AND 300),
    CONSTRAINT audit_violations_detail_length CHECK (char_length(detail) BETWEEN 1 AND 500)
);
COMMENT ON TABLE audit_violations IS 'The violations of audit rules that are known. Each is checked at every run.';
COMMENT ON COLUMN audit_violations.rule IS 'The violated rule.';
COMMENT ON COLUMN audit_violations.subject IS 'What violates it, for example an order and its id.';
COMMENT ON COLUMN audit_violations.detail IS 'What is wrong with it.';
COMMENT ON COLUMN audit_violations.since IS 'When this was seen first.';

CREATE TABLE audit_passes (
    rule text NOT NULL,
    changes_at timestamptz,
    full_at timestamptz,
    CONSTRAINT audit_passes_pkey PRIMARY KEY (rule),
    CONSTRAINT audit_passes_rule_length CHECK (char_length(rule) BETWEEN 1 AND 100)
) WITH (fillfactor = 50);
COMMENT ON TABLE audit_passes IS 'When each audit rule has been checked.';
COMMENT ON COLUMN audit_passes.rule IS 'The rule.';
COMMENT ON COLUMN audit_passes.changes_at IS 'Everything that had changed by this time was checked.';
COMMENT ON COLUMN audit_passes.full_at IS 'All rows were checked, by audit --full, at this time.';

ALTER TABLE worker_heartbeats ADD COLUMN claimed_by uuid;
ALTER TABLE worker_heartbeats ADD COLUMN claimed_at timestamptz;
ALTER TABLE worker_heartbeats ADD COLUMN claimed_until timestamptz;
COMMENT ON COLUMN worker_heartbeats.claimed_by IS 'The run that has, or last had, the claim.';
COMMENT ON COLUMN worker_heartbeats.claimed_at IS 'When that run began.';
COMMENT ON COLUMN worker_heartbeats.claimed_until IS 'The end of its lease, or null once the run has ended.';

-- The position in the list of events becomes a time of Stripe's clock; until now it is one of ours.
UPDATE reconcile_positions SET reached_at = reached_at - interval '10 minutes' WHERE list = 'events';
-- Sessions of the last day are read again: the old code has no position in them.
INSERT INTO reconcile_positions (list, reached_at) VALUES ('sessions', now() - interval '1 day');

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, INSERT (rule, source, position), UPDATE (position) ON audit_positions TO commerce_worker;
        GRANT SELECT, INSERT (product_id, units), UPDATE (units) ON audit_balances TO commerce_worker;
        GRANT SELECT, INSERT (rule, subject, detail), DELETE ON audit_violations TO commerce_worker;
        GRANT SELECT, INSERT (rule, changes_at, full_at), UPDATE (changes_at, full_at) ON audit_passes
        TO commerce_worker;
        GRANT UPDATE (claimed_by, claimed_at, claimed_until) ON worker_heartbeats TO commerce_worker;
        GRANT SELECT ON SEQUENCE order_events_id_seq, stock_movements_id_seq TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON audit_positions, audit_balances, audit_violations, audit_passes TO commerce_readonly;
    END IF;
END
$$;
