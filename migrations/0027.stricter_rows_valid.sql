-- Validates the constraints of 0024 and 0026 for old rows.
-- A violation stops it and names the constraint; sql/README.md says what each refuses.
--
-- depends: 0026.stricter_rows
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders, order_items, order_events, payments, refunds, unmatched_payments,
--       stock_movements, stripe_events, idempotency_keys, reconcile_positions, worker_heartbeats while each is read
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE orders VALIDATE CONSTRAINT orders_attempts_not_negative;
ALTER TABLE orders VALIDATE CONSTRAINT orders_unfinished_is_due;

ALTER TABLE order_items VALIDATE CONSTRAINT order_items_name_length;

ALTER TABLE order_events VALIDATE CONSTRAINT order_events_status_known;
ALTER TABLE order_events VALIDATE CONSTRAINT order_events_cause_length;
ALTER TABLE order_events VALIDATE CONSTRAINT order_events_note_length;

ALTER TABLE payments VALIDATE CONSTRAINT payments_parameters_until_attached;
ALTER TABLE payments VALIDATE CONSTRAINT payments_captured_has_intent;
ALTER TABLE payments VALIDATE CONSTRAINT payments_claimed_until_attached;
ALTER TABLE payments VALIDATE CONSTRAINT payments_url_has_session;
ALTER TABLE payments VALIDATE CONSTRAINT payments_parameters_form;
ALTER TABLE payments VALIDATE CONSTRAINT payments_session_length;
ALTER TABLE payments VALIDATE CONSTRAINT payments_payment_intent_length;

ALTER TABLE refunds VALIDATE CONSTRAINT refunds_attempts_not_negative;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_payment_intent_length;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_stripe_refund_length;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_restock_by_staff;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_settled_is_not_due;

ALTER TABLE unmatched_payments VALIDATE CONSTRAINT unmatched_payments_attempts_not_negative;
ALTER TABLE unmatched_payments VALIDATE CONSTRAINT unmatched_payments_payment_intent_length;

ALTER TABLE stock_movements VALIDATE CONSTRAINT stock_movements_hold_positive;

ALTER TABLE stripe_events VALIDATE CONSTRAINT stripe_events_attempts_not_negative;
ALTER TABLE stripe_events VALIDATE CONSTRAINT stripe_events_type_length;
ALTER TABLE stripe_events VALIDATE CONSTRAINT stripe_events_outcome_length;
ALTER TABLE stripe_events VALIDATE CONSTRAINT stripe_events_payload_form;

ALTER TABLE idempotency_keys VALIDATE CONSTRAINT idempotency_keys_location_length;

ALTER TABLE reconcile_positions VALIDATE CONSTRAINT reconcile_positions_list_length;

ALTER TABLE worker_heartbeats VALIDATE CONSTRAINT worker_heartbeats_loop_length;
