-- Loses no data.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders
DROP CONSTRAINT orders_attempts_not_negative,
DROP CONSTRAINT orders_unfinished_is_due;

ALTER TABLE order_items
DROP CONSTRAINT order_items_name_length;

ALTER TABLE order_events
DROP CONSTRAINT order_events_status_known,
DROP CONSTRAINT order_events_cause_length,
DROP CONSTRAINT order_events_note_length;

ALTER TABLE payments
DROP CONSTRAINT payments_captured_has_intent,
DROP CONSTRAINT payments_claimed_until_attached,
DROP CONSTRAINT payments_url_has_session,
DROP CONSTRAINT payments_parameters_form,
DROP CONSTRAINT payments_session_length,
DROP CONSTRAINT payments_payment_intent_length;

ALTER TABLE refunds
DROP CONSTRAINT refunds_attempts_not_negative,
DROP CONSTRAINT refunds_payment_intent_length,
DROP CONSTRAINT refunds_stripe_refund_length,
DROP CONSTRAINT refunds_restock_by_staff,
DROP CONSTRAINT refunds_settled_is_not_due;

ALTER TABLE unmatched_payments
DROP CONSTRAINT unmatched_payments_attempts_not_negative,
DROP CONSTRAINT unmatched_payments_payment_intent_length;

ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_hold_positive;

ALTER TABLE stripe_events
DROP CONSTRAINT stripe_events_attempts_not_negative,
DROP CONSTRAINT stripe_events_type_length,
DROP CONSTRAINT stripe_events_outcome_length,
DROP CONSTRAINT stripe_events_payload_form;

ALTER TABLE idempotency_keys
DROP CONSTRAINT idempotency_keys_location_length;

ALTER TABLE reconcile_positions
DROP CONSTRAINT reconcile_positions_list_length;

ALTER TABLE worker_heartbeats
DROP CONSTRAINT worker_heartbeats_loop_length;
