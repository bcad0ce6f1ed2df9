-- What a row must not be, column by column: sql/README.md has the list.
-- Of what Stripe sends only the length is checked. Stripe may change the form of its ids.
--
-- depends: 0025.positions
-- phase: expand
-- lock: ACCESS EXCLUSIVE on orders, order_items, order_events, payments, refunds, unmatched_payments, stock_movements,
--       stripe_events, idempotency_keys, reconcile_positions, worker_heartbeats, briefly: old rows are not read
-- undo: drops the constraints

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders
ADD CONSTRAINT orders_attempts_not_negative CHECK (attempts >= 0) NOT VALID,
-- Otherwise no repairer would find it.
ADD CONSTRAINT orders_unfinished_is_due CHECK (
    status NOT IN ('PENDING_PAYMENT', 'PAID') OR next_attempt_at IS NOT NULL
) NOT VALID;

ALTER TABLE order_items
ADD CONSTRAINT order_items_name_length CHECK (char_length(name) BETWEEN 1 AND 200) NOT VALID;

ALTER TABLE order_events
ADD CONSTRAINT order_events_status_known CHECK (
    to_status IN ('PENDING_PAYMENT', 'PAID', 'FULFILLED', 'CANCELLED')
) NOT VALID,
ADD CONSTRAINT order_events_cause_length CHECK (char_length(cause) BETWEEN 1 AND 500) NOT VALID,
ADD CONSTRAINT order_events_note_length CHECK (char_length(note) BETWEEN 1 AND 2000) NOT VALID;

ALTER TABLE payments
-- Without its payment intent a captured payment could never be refunded.
ADD CONSTRAINT payments_captured_has_intent CHECK (
    status NOT IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED') OR stripe_payment_intent_id IS NOT NULL
) NOT VALID,
ADD CONSTRAINT payments_claimed_until_attached CHECK (
    claimed_until IS NULL OR (status = 'INITIATED' AND stripe_session_id IS NULL)
) NOT VALID,
ADD CONSTRAINT payments_url_has_session CHECK (checkout_url IS NULL OR stripe_session_id IS NOT NULL) NOT VALID,
ADD CONSTRAINT payments_parameters_form CHECK (jsonb_typeof(session_parameters) = 'object') NOT VALID,
ADD CONSTRAINT payments_session_length CHECK (char_length(stripe_session_id) BETWEEN 1 AND 255) NOT VALID,
ADD CONSTRAINT payments_payment_intent_length CHECK (
    char_length(stripe_payment_intent_id) BETWEEN 1 AND 255
) NOT VALID;

ALTER TABLE refunds
ADD CONSTRAINT refunds_attempts_not_negative CHECK (attempts >= 0) NOT VALID,
ADD CONSTRAINT refunds_payment_intent_length CHECK (
    char_length(stripe_payment_intent_id) BETWEEN 1 AND 255
) NOT VALID,
ADD CONSTRAINT refunds_stripe_refund_length CHECK (char_length(stripe_refund_id) BETWEEN 1 AND 255) NOT VALID,
ADD CONSTRAINT refunds_restock_by_staff CHECK (NOT restock OR cause = 'staff') NOT VALID,
ADD CONSTRAINT refunds_settled_is_not_due CHECK (
    status IN ('REQUESTED', 'PENDING') OR next_attempt_at IS NULL
) NOT VALID;

ALTER TABLE unmatched_payments
ADD CONSTRAINT unmatched_payments_attempts_not_negative CHECK (attempts >= 0) NOT VALID,
ADD CONSTRAINT unmatched_payments_payment_intent_length CHECK (
    char_length(stripe_payment_intent_id) BETWEEN 1 AND 255
) NOT VALID;

ALTER TABLE stock_movements
ADD CONSTRAINT stock_movements_hold_positive CHECK (hold > 0) NOT VALID;

ALTER TABLE stripe_events
ADD CONSTRAINT stripe_events_attempts_not_negative CHECK (attempts >= 0) NOT VALID,
ADD CONSTRAINT stripe_events_type_length CHECK (char_length(type) BETWEEN 1 AND 255) NOT VALID,
ADD CONSTRAINT stripe_events_outcome_length CHECK (char_length(outcome) BETWEEN 1 AND 100) NOT VALID,
ADD CONSTRAINT stripe_events_payload_form CHECK (jsonb_typeof(payload) = 'object') NOT VALID;

ALTER TABLE idempotency_keys
ADD CONSTRAINT idempotency_keys_location_length CHECK (char_length(location) BETWEEN 1 AND 2000) NOT VALID;

ALTER TABLE reconcile_positions
ADD CONSTRAINT reconcile_positions_list_length CHECK (char_length(list) BETWEEN 1 AND 100) NOT VALID;

ALTER TABLE worker_heartbeats
ADD CONSTRAINT worker_heartbeats_loop_length CHECK (char_length(loop) BETWEEN 1 AND 100) NOT VALID;
