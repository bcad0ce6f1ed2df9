-- Every event that Stripe delivered, with its outcome.
--
-- depends: 0003.orders
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the events; Stripe keeps its own for 30 days

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE stripe_events (
    id text NOT NULL,
    type text NOT NULL,
    payload jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    order_id uuid,
    -- The outcome of processing it; null until it was processed.
    outcome text,
    handled_at timestamptz,
    next_attempt_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    CONSTRAINT stripe_events_pkey PRIMARY KEY (id),
    CONSTRAINT stripe_events_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT stripe_events_id_length CHECK (char_length(id) BETWEEN 1 AND 255),
    CONSTRAINT stripe_events_handled_has_outcome CHECK (handled_at IS NULL OR outcome IS NOT NULL),
    CONSTRAINT stripe_events_handled_or_due CHECK ((handled_at IS NULL) = (next_attempt_at IS NOT NULL))
);

CREATE INDEX stripe_events_by_order ON stripe_events (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX stripe_events_due ON stripe_events (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
