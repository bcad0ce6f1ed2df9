-- Outgoing events: the endpoints of other systems, and one row for each event and endpoint, written by the transaction
-- that changes the order, refund, dispute or stock.
--
-- depends: 0077.order_shipping
-- phase: expand
-- lock: none
-- undo: drops the endpoints with their secrets, and what was or is to be delivered

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE event_endpoints (
    id bigint GENERATED ALWAYS AS IDENTITY,
    url text NOT NULL,
    types text[] NOT NULL,
    description text NOT NULL DEFAULT '',
    active boolean NOT NULL DEFAULT true,
    secret bytea NOT NULL,
    -- Newest first. Each signs too, until its time.
    previous_secrets bytea[] NOT NULL DEFAULT '{}',
    previous_until timestamptz[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT event_endpoints_pkey PRIMARY KEY (id),
    CONSTRAINT event_endpoints_url_length CHECK (char_length(url) BETWEEN 1 AND 2000),
    CONSTRAINT event_endpoints_types_known CHECK (
        cardinality(types) > 0
        AND types <@ ARRAY[
            'order.placed', 'order.paid', 'order.fulfilled', 'order.cancelled', 'refund.succeeded', 'refund.failed',
            'dispute.opened', 'dispute.closed', 'product.sold_out', 'product.restocked'
        ]
    ),
    CONSTRAINT event_endpoints_description_length CHECK (char_length(description) <= 500),
    CONSTRAINT event_endpoints_secret_length CHECK (octet_length(secret) BETWEEN 24 AND 64),
    CONSTRAINT event_endpoints_previous_ends CHECK (
        cardinality(previous_secrets) = cardinality(previous_until) AND cardinality(previous_secrets) <= 5
    ),
    CONSTRAINT event_endpoints_deleted_is_off CHECK (deleted_at IS NULL OR NOT active)
);
-- Every transition reads the active ones.
CREATE INDEX event_endpoints_active ON event_endpoints (id) WHERE active;
CREATE INDEX event_endpoints_listed ON event_endpoints (id) WHERE deleted_at IS NULL;
COMMENT ON TABLE event_endpoints IS 'Where other systems receive our events. Staff add and change them.';
COMMENT ON COLUMN event_endpoints.id IS 'The endpoint, and the cursor of the list.';
COMMENT ON COLUMN event_endpoints.url IS 'Where the worker sends the events.';
COMMENT ON COLUMN event_endpoints.types IS 'The types of events that it receives.';
COMMENT ON COLUMN event_endpoints.description IS 'What it is for, in the words of staff.';
COMMENT ON COLUMN event_endpoints.active IS 'Whether events are written and sent. Failing for three days ends it.';
COMMENT ON COLUMN event_endpoints.secret IS 'What signs its events, as bytes.';
COMMENT ON COLUMN event_endpoints.previous_secrets IS 'The secrets before the last rotations, at most five.';
COMMENT ON COLUMN event_endpoints.previous_until IS 'Until when each previous secret signs too.';
COMMENT ON COLUMN event_endpoints.created_at IS 'When it was added.';
COMMENT ON COLUMN event_endpoints.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN event_endpoints.deleted_at IS 'When staff deleted it. Retention then deletes its events and the row.';

-- Apart from event_endpoints, because every transition reads those and a lease is renewed every few seconds.
CREATE TABLE event_leases (
    endpoint_id bigint NOT NULL,
    run_id uuid,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    switched_on_at timestamptz NOT NULL DEFAULT now(),
    working_since timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    CONSTRAINT event_leases_pkey PRIMARY KEY (endpoint_id),
    CONSTRAINT event_leases_endpoint_fkey FOREIGN KEY (endpoint_id) REFERENCES event_endpoints (id) ON DELETE CASCADE
) WITH (fillfactor = 50);
COMMENT ON TABLE event_leases IS 'Which worker sends the events of an endpoint: one at a time.';
COMMENT ON COLUMN event_leases.endpoint_id IS 'The endpoint.';
COMMENT ON COLUMN event_leases.run_id IS 'The run of a worker that has, or last had, the lease.';
COMMENT ON COLUMN event_leases.leased_until IS 'The end of the lease.';
COMMENT ON COLUMN event_leases.switched_on_at IS 'When it was added or last switched on.';
COMMENT ON COLUMN event_leases.working_since IS 'The same, or when its last failure of half an hour or more ended.';
COMMENT ON COLUMN event_leases.failing_since IS 'Since when every attempt has failed. Null after a success.';

-- No foreign keys: every sale would lock the rows of the same endpoints.
CREATE TABLE event_deliveries (
    endpoint_id bigint NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resent_at timestamptz,
    status text NOT NULL DEFAULT 'pending',
    attempts integer NOT NULL DEFAULT 0,
    -- The clock's time: among the events of one order, the beginnings of their transactions have no order.
    next_attempt_at timestamptz DEFAULT clock_timestamp(),
    attempted_at timestamptz,
    result text,
    finished_at timestamptz,
    CONSTRAINT event_deliveries_pkey PRIMARY KEY (endpoint_id, id),
    CONSTRAINT event_deliveries_type_form CHECK (type ~ '^[a-z]+\.[a-z_]+$' AND char_length(type) <= 100),
    CONSTRAINT event_deliveries_subject_form CHECK (subject ~ '^(order|product):[0-9a-f-]+$'),
    CONSTRAINT event_deliveries_data_form CHECK (jsonb_typeof(data) = 'object'),
    CONSTRAINT event_deliveries_status_known CHECK (status IN ('pending', 'delivered', 'given_up')),
    CONSTRAINT event_deliveries_pending_is_due CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL)),
    CONSTRAINT event_deliveries_pending_is_unfinished CHECK ((status = 'pending') = (finished_at IS NULL)),
    CONSTRAINT event_deliveries_attempts_not_negative CHECK (attempts >= 0),
    CONSTRAINT event_deliveries_result_form CHECK (result ~ '^([0-9]{3}|[a-z]+(_[a-z]+)*)$')
);
CREATE INDEX event_deliveries_due ON event_deliveries (endpoint_id, next_attempt_at)
WHERE next_attempt_at IS NOT NULL;
-- The next of an order waits until the last is finished.
CREATE INDEX event_deliveries_by_subject ON event_deliveries (endpoint_id, subject, id)
WHERE next_attempt_at IS NOT NULL;
CREATE INDEX event_deliveries_finished ON event_deliveries (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE event_deliveries IS 'Each event for each endpoint. No personal data.';
COMMENT ON COLUMN event_deliveries.endpoint_id IS 'The endpoint.';
COMMENT ON COLUMN event_deliveries.id IS 'Grows with the events of one order or product, whose row was locked.';
COMMENT ON COLUMN event_deliveries.event_id IS 'The event, as the header webhook-id names it: one for all endpoints.';
COMMENT ON COLUMN event_deliveries.type IS 'What happened, for example order.paid.';
COMMENT ON COLUMN event_deliveries.subject IS 'To what: order: or product: with an id. Its events are sent one by one.';
COMMENT ON COLUMN event_deliveries.data IS 'The member data of the payload: ids, amounts and states.';
COMMENT ON COLUMN event_deliveries.created_at IS 'When its transaction began: the timestamp of the payload.';
COMMENT ON COLUMN event_deliveries.resent_at IS 'When staff last had it sent again.';
COMMENT ON COLUMN event_deliveries.status IS 'pending, delivered, or given_up after three days.';
COMMENT ON COLUMN event_deliveries.attempts IS 'How often it was sent.';
COMMENT ON COLUMN event_deliveries.next_attempt_at IS 'When it is due. Null once it is finished.';
COMMENT ON COLUMN event_deliveries.attempted_at IS 'When it was last sent.';
COMMENT ON COLUMN event_deliveries.result IS 'The status code that answered the last attempt, or what went wrong.';
COMMENT ON COLUMN event_deliveries.finished_at IS 'When it was delivered or given up.';

CREATE TABLE product_announcements (
    product_id bigint NOT NULL,
    sold_out boolean,
    sold_out_at timestamptz,
    restocked_at timestamptz,
    due_at timestamptz,
    CONSTRAINT product_announcements_pkey PRIMARY KEY (product_id)
) WITH (fillfactor = 80);
CREATE INDEX product_announcements_due ON product_announcements (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE product_announcements IS 'What the last event said of a product''s stock.';
COMMENT ON COLUMN product_announcements.product_id IS 'The product.';
COMMENT ON COLUMN product_announcements.sold_out IS 'Whether the last event said sold out. Null: there was none.';
COMMENT ON COLUMN product_announcements.sold_out_at IS 'When the last product.sold_out was written.';
COMMENT ON COLUMN product_announcements.restocked_at IS 'When the last product.restocked was written.';
COMMENT ON COLUMN product_announcements.due_at IS 'When a change may be announced that came within a minute.';

-- A periodic task of the worker.
INSERT INTO worker_heartbeats (loop) VALUES ('deliver_events');

-- Blocks, as in 0007.roles. Readers do not see secrets.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT, INSERT (url, types, description, secret),
        UPDATE (url, types, description, active, secret, previous_secrets, previous_until, updated_at, deleted_at)
        ON event_endpoints TO commerce_app;
        GRANT SELECT, INSERT (endpoint_id), UPDATE (switched_on_at, working_since, failing_since)
        ON event_leases TO commerce_app;
        GRANT SELECT, INSERT (endpoint_id, event_id, type, subject, data),
        UPDATE (resent_at, status, next_attempt_at, finished_at) ON event_deliveries TO commerce_app;
        GRANT SELECT, INSERT (product_id, sold_out, sold_out_at, restocked_at, due_at),
        UPDATE (sold_out, sold_out_at, restocked_at, due_at) ON product_announcements TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT, UPDATE (active, updated_at), DELETE ON event_endpoints TO commerce_worker;
        GRANT SELECT, UPDATE (run_id, leased_until, switched_on_at, working_since, failing_since)
        ON event_leases TO commerce_worker;
        GRANT SELECT, INSERT (endpoint_id, event_id, type, subject, data),
        UPDATE (status, attempts, next_attempt_at, attempted_at, result, finished_at), DELETE
        ON event_deliveries TO commerce_worker;
        GRANT SELECT, INSERT (product_id, sold_out, sold_out_at, restocked_at, due_at),
        UPDATE (sold_out, sold_out_at, restocked_at, due_at) ON product_announcements TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT (
            id, url, types, description, active, previous_until, created_at, updated_at, deleted_at
        ) ON event_endpoints TO commerce_readonly;
        GRANT SELECT ON event_leases, event_deliveries, product_announcements TO commerce_readonly;
    END IF;
END
$$;
