-- What staff did: one row for each of their writes, in its transaction. It only grows.
--
-- depends: 0055.actors
-- phase: expand
-- lock: none
-- undo: drops the log

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE audit_log (
    -- The cursor of the list.
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    -- The members that changed. Null where there is nothing before or after.
    before jsonb,
    after jsonb,
    request_id text NOT NULL,
    CONSTRAINT audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT audit_log_actor_form CHECK (
        actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
    ),
    CONSTRAINT audit_log_action_form CHECK (action ~ '^[a-z]+(_[a-z]+)*$' AND char_length(action) <= 100),
    CONSTRAINT audit_log_subject_form CHECK (subject ~ '^[a-z_]+:.+$' AND char_length(subject) <= 300),
    CONSTRAINT audit_log_before_form CHECK (jsonb_typeof(before) = 'object'),
    CONSTRAINT audit_log_after_form CHECK (jsonb_typeof(after) = 'object'),
    CONSTRAINT audit_log_request_id_length CHECK (char_length(request_id) BETWEEN 1 AND 500)
);
CREATE INDEX audit_log_by_subject ON audit_log (subject, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
COMMENT ON TABLE audit_log IS 'What staff did, in the transactions that did it. No personal data of customers.';
COMMENT ON COLUMN audit_log.id IS 'The cursor of the list. Rows may be committed in another order.';
COMMENT ON COLUMN audit_log.at IS 'When the transaction began.';
COMMENT ON COLUMN audit_log.actor IS 'Who did it, as in order_events.';
COMMENT ON COLUMN audit_log.action IS 'What they did, by the name of the call or command.';
COMMENT ON COLUMN audit_log.subject IS
'To what: product:, category: or order: with an id, stuck: with kind and id, user: or key: with a name.';
COMMENT ON COLUMN audit_log.before IS 'The changed members as they were. Null if it was created.';
COMMENT ON COLUMN audit_log.after IS 'The changed members as they are now. Null if it was deleted.';
COMMENT ON COLUMN audit_log.request_id IS 'Our id of the request, as in order_events.cause; or the command.';

-- Blocks, as in 0007.roles. No role may change or delete a row.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT, INSERT (actor, action, subject, before, after, request_id) ON audit_log TO commerce_app;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT INSERT (actor, action, subject, before, after, request_id) ON audit_log TO commerce_eraser;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON audit_log TO commerce_readonly;
    END IF;
END
$$;
