-- What no repairer can finish, for people.
--
-- depends: 0034.disputes
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the list, and which of it people have resolved: the service then tries these refunds again

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE stuck_items (
    -- The cursor of the list.
    number bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    -- The id of what is stuck: of a payment intent or session, a refund, a dispute or an event.
    id text NOT NULL,
    order_id uuid,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    -- When it left the list: by itself, or because people resolved it.
    ended_at timestamptz,
    -- Whether people settled it elsewhere. The order's history says how.
    resolved boolean NOT NULL DEFAULT false,
    CONSTRAINT stuck_items_pkey PRIMARY KEY (kind, id),
    CONSTRAINT stuck_items_number_unique UNIQUE (number),
    CONSTRAINT stuck_items_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT stuck_items_kind_known CHECK (
        kind IN ('unmatched_payment', 'refund_failed', 'refund_open', 'dispute_open', 'event_unhandled')
    ),
    CONSTRAINT stuck_items_id_length CHECK (char_length(id) BETWEEN 1 AND 255),
    CONSTRAINT stuck_items_reason_length CHECK (char_length(reason) BETWEEN 1 AND 500),
    CONSTRAINT stuck_items_resolved_has_ended CHECK (NOT resolved OR ended_at IS NOT NULL)
);
-- The list. It is short, so that one kind needs no index of its own.
CREATE INDEX stuck_items_open ON stuck_items (number) WHERE ended_at IS NULL;
CREATE INDEX stuck_items_by_order ON stuck_items (order_id) WHERE order_id IS NOT NULL;
COMMENT ON TABLE stuck_items IS 'What no repairer can finish. Open while ended_at is null.';
COMMENT ON COLUMN stuck_items.number IS 'The cursor of the list, in the order of arrival.';
COMMENT ON COLUMN stuck_items.kind IS 'What is stuck.';
COMMENT ON COLUMN stuck_items.id IS 'The id, within its kind: of a payment, refund, dispute or event.';
COMMENT ON COLUMN stuck_items.order_id IS 'Its order. Null where none is known.';
COMMENT ON COLUMN stuck_items.reason IS 'Why it is stuck.';
COMMENT ON COLUMN stuck_items.since IS 'Since when.';
COMMENT ON COLUMN stuck_items.ended_at IS 'When it left the list. Null while it is in it.';
COMMENT ON COLUMN stuck_items.resolved IS 'Whether people settled it elsewhere. The history of the order says how.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (kind, id, order_id, reason),
            UPDATE (number, order_id, reason, since, ended_at, resolved)
        ON stuck_items TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (kind, id, order_id, reason),
            UPDATE (number, order_id, reason, since, ended_at)
        ON stuck_items TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON stuck_items TO commerce_readonly;
    END IF;
END
$$;
