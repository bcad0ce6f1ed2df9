-- Loses the comments and settings, and no data.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE payments RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE carts RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE stripe_events RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE idempotency_keys RESET (fillfactor, autovacuum_vacuum_scale_factor);
ALTER TABLE products RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
ALTER TABLE order_events RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE stock_movements RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE order_items RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor);

COMMENT ON TABLE categories IS NULL;
COMMENT ON COLUMN categories.id IS NULL;
COMMENT ON COLUMN categories.name IS NULL;
COMMENT ON COLUMN categories.slug IS NULL;
COMMENT ON COLUMN categories.created_at IS NULL;

COMMENT ON TABLE products IS NULL;
COMMENT ON COLUMN products.id IS NULL;
COMMENT ON COLUMN products.name IS NULL;
COMMENT ON COLUMN products.description IS NULL;
COMMENT ON COLUMN products.category_id IS NULL;
COMMENT ON COLUMN products.price_minor IS NULL;
COMMENT ON COLUMN products.currency IS NULL;
COMMENT ON COLUMN products.stock IS NULL;
COMMENT ON COLUMN products.active IS NULL;
COMMENT ON COLUMN products.version IS NULL;
COMMENT ON COLUMN products.created_at IS NULL;
COMMENT ON COLUMN products.updated_at IS NULL;

COMMENT ON TABLE carts IS NULL;
COMMENT ON COLUMN carts.id IS NULL;
COMMENT ON COLUMN carts.status IS NULL;
COMMENT ON COLUMN carts.currency IS NULL;
COMMENT ON COLUMN carts.created_at IS NULL;
COMMENT ON COLUMN carts.updated_at IS NULL;
COMMENT ON COLUMN carts.ordered_at IS NULL;

COMMENT ON TABLE cart_items IS NULL;
COMMENT ON COLUMN cart_items.cart_id IS NULL;
COMMENT ON COLUMN cart_items.product_id IS NULL;
COMMENT ON COLUMN cart_items.quantity IS NULL;

COMMENT ON TABLE orders IS NULL;
COMMENT ON COLUMN orders.id IS NULL;
COMMENT ON COLUMN orders.number IS NULL;
COMMENT ON COLUMN orders.cart_id IS NULL;
COMMENT ON COLUMN orders.status IS NULL;
COMMENT ON COLUMN orders.total_minor IS NULL;
COMMENT ON COLUMN orders.currency IS NULL;
COMMENT ON COLUMN orders.email IS NULL;
COMMENT ON COLUMN orders.hold IS NULL;
COMMENT ON COLUMN orders.expires_at IS NULL;
COMMENT ON COLUMN orders.created_at IS NULL;
COMMENT ON COLUMN orders.paid_at IS NULL;
COMMENT ON COLUMN orders.fulfilled_at IS NULL;
COMMENT ON COLUMN orders.cancelled_at IS NULL;
COMMENT ON COLUMN orders.next_attempt_at IS NULL;
COMMENT ON COLUMN orders.attempts IS NULL;
COMMENT ON COLUMN orders.client IS NULL;

COMMENT ON TABLE order_items IS NULL;
COMMENT ON COLUMN order_items.order_id IS NULL;
COMMENT ON COLUMN order_items.product_id IS NULL;
COMMENT ON COLUMN order_items.name IS NULL;
COMMENT ON COLUMN order_items.quantity IS NULL;
COMMENT ON COLUMN order_items.unit_price_minor IS NULL;

COMMENT ON TABLE payments IS NULL;
COMMENT ON COLUMN payments.id IS NULL;
COMMENT ON COLUMN payments.order_id IS NULL;
COMMENT ON COLUMN payments.status IS NULL;
COMMENT ON COLUMN payments.amount_minor IS NULL;
COMMENT ON COLUMN payments.currency IS NULL;
COMMENT ON COLUMN payments.refunded_minor IS NULL;
COMMENT ON COLUMN payments.attempt IS NULL;
COMMENT ON COLUMN payments.session_parameters IS NULL;
COMMENT ON COLUMN payments.session_expires_at IS NULL;
COMMENT ON COLUMN payments.claimed_until IS NULL;
COMMENT ON COLUMN payments.stripe_session_id IS NULL;
COMMENT ON COLUMN payments.checkout_url IS NULL;
COMMENT ON COLUMN payments.stripe_payment_intent_id IS NULL;
COMMENT ON COLUMN payments.captured_minor IS NULL;
COMMENT ON COLUMN payments.captured_currency IS NULL;
COMMENT ON COLUMN payments.created_at IS NULL;
COMMENT ON COLUMN payments.updated_at IS NULL;

COMMENT ON TABLE refunds IS NULL;
COMMENT ON COLUMN refunds.id IS NULL;
COMMENT ON COLUMN refunds.order_id IS NULL;
COMMENT ON COLUMN refunds.stripe_payment_intent_id IS NULL;
COMMENT ON COLUMN refunds.amount_minor IS NULL;
COMMENT ON COLUMN refunds.cause IS NULL;
COMMENT ON COLUMN refunds.restock IS NULL;
COMMENT ON COLUMN refunds.status IS NULL;
COMMENT ON COLUMN refunds.stripe_refund_id IS NULL;
COMMENT ON COLUMN refunds.created_at IS NULL;
COMMENT ON COLUMN refunds.updated_at IS NULL;
COMMENT ON COLUMN refunds.next_attempt_at IS NULL;
COMMENT ON COLUMN refunds.attempts IS NULL;

COMMENT ON TABLE order_events IS NULL;
COMMENT ON COLUMN order_events.id IS NULL;
COMMENT ON COLUMN order_events.order_id IS NULL;
COMMENT ON COLUMN order_events.at IS NULL;
COMMENT ON COLUMN order_events.from_status IS NULL;
COMMENT ON COLUMN order_events.to_status IS NULL;
COMMENT ON COLUMN order_events.cause IS NULL;
COMMENT ON COLUMN order_events.note IS NULL;

COMMENT ON TABLE stock_movements IS NULL;
COMMENT ON COLUMN stock_movements.id IS NULL;
COMMENT ON COLUMN stock_movements.product_id IS NULL;
COMMENT ON COLUMN stock_movements.delta IS NULL;
COMMENT ON COLUMN stock_movements.reason IS NULL;
COMMENT ON COLUMN stock_movements.order_id IS NULL;
COMMENT ON COLUMN stock_movements.hold IS NULL;
COMMENT ON COLUMN stock_movements.created_at IS NULL;

COMMENT ON TABLE stripe_events IS NULL;
COMMENT ON COLUMN stripe_events.id IS NULL;
COMMENT ON COLUMN stripe_events.type IS NULL;
COMMENT ON COLUMN stripe_events.payload IS NULL;
COMMENT ON COLUMN stripe_events.received_at IS NULL;
COMMENT ON COLUMN stripe_events.order_id IS NULL;
COMMENT ON COLUMN stripe_events.outcome IS NULL;
COMMENT ON COLUMN stripe_events.handled_at IS NULL;
COMMENT ON COLUMN stripe_events.next_attempt_at IS NULL;
COMMENT ON COLUMN stripe_events.attempts IS NULL;

COMMENT ON TABLE idempotency_keys IS NULL;
COMMENT ON COLUMN idempotency_keys.id IS NULL;
COMMENT ON COLUMN idempotency_keys.request_digest IS NULL;
COMMENT ON COLUMN idempotency_keys.order_id IS NULL;
COMMENT ON COLUMN idempotency_keys.status IS NULL;
COMMENT ON COLUMN idempotency_keys.location IS NULL;
COMMENT ON COLUMN idempotency_keys.answer IS NULL;
COMMENT ON COLUMN idempotency_keys.created_at IS NULL;

COMMENT ON TABLE reconcile_positions IS NULL;
COMMENT ON COLUMN reconcile_positions.list IS NULL;
COMMENT ON COLUMN reconcile_positions.reached_at IS NULL;

COMMENT ON TABLE worker_heartbeats IS NULL;
COMMENT ON COLUMN worker_heartbeats.loop IS NULL;
COMMENT ON COLUMN worker_heartbeats.beat_at IS NULL;
COMMENT ON COLUMN worker_heartbeats.due_at IS NULL;

COMMENT ON TABLE unmatched_payments IS NULL;
COMMENT ON COLUMN unmatched_payments.stripe_payment_intent_id IS NULL;
COMMENT ON COLUMN unmatched_payments.order_id IS NULL;
COMMENT ON COLUMN unmatched_payments.amount_minor IS NULL;
COMMENT ON COLUMN unmatched_payments.currency IS NULL;
COMMENT ON COLUMN unmatched_payments.created_at IS NULL;
COMMENT ON COLUMN unmatched_payments.next_attempt_at IS NULL;
COMMENT ON COLUMN unmatched_payments.attempts IS NULL;
