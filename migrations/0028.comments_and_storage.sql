-- What each table and column means, for people in psql, and how VACUUM and free space fit each table's use.
--
-- depends: 0027.stricter_rows_valid
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on categories, products, carts, cart_items, orders, order_items, payments,
--       refunds, order_events, stock_movements, stripe_events, idempotency_keys,
--       reconcile_positions, worker_heartbeats, unmatched_payments, briefly
-- undo: drops the comments and settings

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Autovacuum begins after a share of a table has changed, by default a fifth. In millions of rows that is too late:
-- a purchase changes its order and payment three times, and everything only in its first hour.
ALTER TABLE orders SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE payments SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE carts SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Retention deletes what is old, so that new rows can use its pages.
ALTER TABLE stripe_events SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- A checkout stores its key first and its response later. The free space keeps both on one page (HOT).
ALTER TABLE idempotency_keys SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
-- A hot product gets a new row version with each sale. Old versions are pruned when its page is read; VACUUM frees
-- what a long transaction has kept from that.
ALTER TABLE products SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
-- These only grow. VACUUM adds new pages to the index of positions, and marks them as visible to all.
ALTER TABLE order_events SET (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE stock_movements SET (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE order_items SET (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
-- Too small or too seldom changed for other settings than the server's: categories, cart_items, refunds,
-- unmatched_payments, reconcile_positions, worker_heartbeats.

COMMENT ON TABLE categories IS 'Groups of products.';
COMMENT ON COLUMN categories.id IS 'The key.';
COMMENT ON COLUMN categories.name IS 'What customers read.';
COMMENT ON COLUMN categories.slug IS 'The name in addresses: unique.';
COMMENT ON COLUMN categories.created_at IS 'When it was made.';

COMMENT ON TABLE products IS 'What is sold, with the units in stock.';
COMMENT ON COLUMN products.id IS 'The key.';
COMMENT ON COLUMN products.name IS 'What customers read.';
COMMENT ON COLUMN products.description IS 'What customers read; may be empty.';
COMMENT ON COLUMN products.category_id IS 'Its category, if any.';
COMMENT ON COLUMN products.price_minor IS 'The price of a unit, in minor units of currency.';
COMMENT ON COLUMN products.currency IS 'ISO 4217. Only the owner may change it.';
COMMENT ON COLUMN products.stock IS 'Units that nobody has bought or holds: the sum of the product''s stock_movements.';
COMMENT ON COLUMN products.active IS 'Whether it is for sale.';
COMMENT ON COLUMN products.version IS 'Counts edits by staff, for If-Match; stock moves do not count.';
COMMENT ON COLUMN products.created_at IS 'When it was made.';
COMMENT ON COLUMN products.updated_at IS 'When it was last edited or its stock moved.';

COMMENT ON TABLE carts IS 'What a customer chose. An OPEN one shows today''s prices, a CHECKED_OUT one its order''s.';
COMMENT ON COLUMN carts.id IS 'A capability: who knows it may use the cart.';
COMMENT ON COLUMN carts.status IS 'OPEN, or CHECKED_OUT while it has a live order.';
COMMENT ON COLUMN carts.currency IS 'Of its products; null while it is empty.';
COMMENT ON COLUMN carts.created_at IS 'When it was made.';
COMMENT ON COLUMN carts.updated_at IS 'When it was last edited, checked out or opened again.';
COMMENT ON COLUMN carts.ordered_at IS 'When it was last checked out; null if never, so that retention may delete it.';

COMMENT ON TABLE cart_items IS 'The lines of carts.';
COMMENT ON COLUMN cart_items.cart_id IS 'The cart.';
COMMENT ON COLUMN cart_items.product_id IS 'The product; no foreign key, see decision 0011.';
COMMENT ON COLUMN cart_items.quantity IS 'Units.';

COMMENT ON TABLE orders IS 'What customers ordered: the line between stock and payment.';
COMMENT ON COLUMN orders.id IS 'A capability: who knows it may read the order.';
COMMENT ON COLUMN orders.number IS 'Counts up, with gaps: the cursor of staff lists.';
COMMENT ON COLUMN orders.cart_id IS 'The cart that was checked out.';
COMMENT ON COLUMN orders.status IS 'PENDING_PAYMENT, PAID, FULFILLED or CANCELLED; order_events has the way to it.';
COMMENT ON COLUMN orders.total_minor IS 'The sum of its lines, in minor units of currency.';
COMMENT ON COLUMN orders.currency IS 'ISO 4217.';
COMMENT ON COLUMN orders.email IS 'The customer''s address, from Stripe; null until paid.';
COMMENT ON COLUMN orders.hold IS 'The hold number: how often its stock was taken.';
COMMENT ON COLUMN orders.expires_at IS 'When the hold on its units ends.';
COMMENT ON COLUMN orders.created_at IS 'When it was placed.';
COMMENT ON COLUMN orders.paid_at IS 'When its payment was learned.';
COMMENT ON COLUMN orders.fulfilled_at IS 'When it was fulfilled.';
COMMENT ON COLUMN orders.cancelled_at IS 'When it was cancelled; null unless it is.';
COMMENT ON COLUMN orders.next_attempt_at IS 'When the sweep claims it next; null once it is FULFILLED or CANCELLED.';
COMMENT ON COLUMN orders.attempts IS 'Claims since its status last changed.';
COMMENT ON COLUMN orders.client IS
'A keyed digest of the client''s address, to limit pending orders; null without a limit.';

COMMENT ON TABLE order_items IS 'The lines of orders, as they were bought.';
COMMENT ON COLUMN order_items.order_id IS 'The order.';
COMMENT ON COLUMN order_items.product_id IS 'The product.';
COMMENT ON COLUMN order_items.name IS 'The product''s name at that time.';
COMMENT ON COLUMN order_items.quantity IS 'Units.';
COMMENT ON COLUMN order_items.unit_price_minor IS
'The price of a unit at that time, in minor units of the order''s currency.';

COMMENT ON TABLE payments IS 'The one payment of each order.';
COMMENT ON COLUMN payments.id IS 'The id that customers see.';
COMMENT ON COLUMN payments.order_id IS 'The order: the key.';
COMMENT ON COLUMN payments.status IS 'INITIATED, PROCESSING, SUCCEEDED, FAILED, EXPIRED, REFUND_PENDING or REFUNDED.';
COMMENT ON COLUMN payments.amount_minor IS 'What was asked for, in minor units of currency: the order''s total.';
COMMENT ON COLUMN payments.currency IS 'ISO 4217.';
COMMENT ON COLUMN payments.refunded_minor IS 'The sum of succeeded refunds, in minor units.';
COMMENT ON COLUMN payments.attempt IS 'Which session of the order this is: part of its idempotency key at Stripe.';
COMMENT ON COLUMN payments.session_parameters IS
'The exact request that creates the session; null once it is attached or the payment has ended.';
COMMENT ON COLUMN payments.session_expires_at IS 'When Stripe ends the session.';
COMMENT ON COLUMN payments.claimed_until IS
'The end of a request''s right to create the session; null when nobody has it.';
COMMENT ON COLUMN payments.stripe_session_id IS 'Stripe''s id of the session; null until it is attached.';
COMMENT ON COLUMN payments.checkout_url IS 'Stripe''s payment page; null unless it can be paid.';
COMMENT ON COLUMN payments.stripe_payment_intent_id IS 'Stripe''s id of the captured payment; null before.';
COMMENT ON COLUMN payments.captured_minor IS
'What Stripe captured, where it is not amount_minor in currency; else null.';
COMMENT ON COLUMN payments.captured_currency IS 'The currency of captured_minor.';
COMMENT ON COLUMN payments.created_at IS 'When the order was placed: Stripe''s list can have the session from then on.';
COMMENT ON COLUMN payments.updated_at IS 'When its state last changed.';

COMMENT ON TABLE refunds IS 'Refunds, decided here or made in Stripe''s dashboard.';
COMMENT ON COLUMN refunds.id IS 'The key, and the idempotency key at Stripe.';
COMMENT ON COLUMN refunds.order_id IS 'The order.';
COMMENT ON COLUMN refunds.stripe_payment_intent_id IS
'The payment that is refunded; an order may have been paid twice.';
COMMENT ON COLUMN refunds.amount_minor IS 'In minor units of the captured currency.';
COMMENT ON COLUMN refunds.cause IS 'late_money (a late payment), staff, or stripe (the dashboard).';
COMMENT ON COLUMN refunds.restock IS 'Whether the order''s units return to stock once it succeeds.';
COMMENT ON COLUMN refunds.status IS 'REQUESTED, PENDING, SUCCEEDED or FAILED.';
COMMENT ON COLUMN refunds.stripe_refund_id IS 'Stripe''s id; null until it is known.';
COMMENT ON COLUMN refunds.created_at IS 'When it was decided or first listed.';
COMMENT ON COLUMN refunds.updated_at IS 'When its state last changed.';
COMMENT ON COLUMN refunds.next_attempt_at IS 'When the sweep claims it next; null when nothing is due.';
COMMENT ON COLUMN refunds.attempts IS 'Claims by the sweep.';

COMMENT ON TABLE order_events IS 'The history of each order: transitions, and notes without one. Only grows.';
COMMENT ON COLUMN order_events.id IS
'Counts up, with gaps and not in the order of commits: the place in a history, and audits'' position.';
COMMENT ON COLUMN order_events.order_id IS 'The order.';
COMMENT ON COLUMN order_events.at IS 'When the transaction began.';
COMMENT ON COLUMN order_events.from_status IS 'Null for the first.';
COMMENT ON COLUMN order_events.to_status IS 'Equal to from_status for a note.';
COMMENT ON COLUMN order_events.cause IS 'The request, event or job behind it.';
COMMENT ON COLUMN order_events.note IS 'What happened, in words.';

COMMENT ON TABLE stock_movements IS 'The stock ledger: every change of a product''s stock. Only grows.';
COMMENT ON COLUMN stock_movements.id IS
'Counts up, with gaps and not in the order of commits: the place in a ledger, and audits'' position.';
COMMENT ON COLUMN stock_movements.product_id IS 'The product.';
COMMENT ON COLUMN stock_movements.delta IS 'Units added, or taken if negative.';
COMMENT ON COLUMN stock_movements.reason IS 'hold or release for an order; else what staff wrote.';
COMMENT ON COLUMN stock_movements.order_id IS 'The order whose hold took or released the units; null for staff.';
COMMENT ON COLUMN stock_movements.hold IS 'The hold number; null for staff.';
COMMENT ON COLUMN stock_movements.created_at IS 'When the transaction began.';

COMMENT ON TABLE stripe_events IS 'Every event that Stripe delivered, with its outcome.';
COMMENT ON COLUMN stripe_events.id IS 'Stripe''s id: an event is applied once.';
COMMENT ON COLUMN stripe_events.type IS 'Stripe''s name for what happened.';
COMMENT ON COLUMN stripe_events.payload IS 'The event as it came.';
COMMENT ON COLUMN stripe_events.received_at IS 'When it was stored.';
COMMENT ON COLUMN stripe_events.order_id IS 'Its order, once known.';
COMMENT ON COLUMN stripe_events.outcome IS 'What applying it did; null until then.';
COMMENT ON COLUMN stripe_events.handled_at IS 'When it was done with; null while it is due.';
COMMENT ON COLUMN stripe_events.next_attempt_at IS 'When the sweep claims it next; null once it is handled.';
COMMENT ON COLUMN stripe_events.attempts IS 'Claims by the sweep.';

COMMENT ON TABLE idempotency_keys IS 'Responses stored for repeated requests, for 24 hours.';
COMMENT ON COLUMN idempotency_keys.id IS 'SHA-256 of method, path, principal and key.';
COMMENT ON COLUMN idempotency_keys.request_digest IS 'SHA-256 of the body: another body with the same key is refused.';
COMMENT ON COLUMN idempotency_keys.order_id IS
'The order of a checkout, whose cancellation voids the response; else null.';
COMMENT ON COLUMN idempotency_keys.status IS 'The HTTP status; null while a checkout has no session yet.';
COMMENT ON COLUMN idempotency_keys.location IS 'The Location header, if any.';
COMMENT ON COLUMN idempotency_keys.answer IS 'The response''s body.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the 24 hours began.';

COMMENT ON TABLE reconcile_positions IS 'How far Stripe''s lists have been read.';
COMMENT ON COLUMN reconcile_positions.list IS 'The list.';
COMMENT ON COLUMN reconcile_positions.reached_at IS 'Everything that Stripe listed before was compared.';

COMMENT ON TABLE worker_heartbeats IS 'When each loop of the worker ran last, whichever worker runs it.';
COMMENT ON COLUMN worker_heartbeats.loop IS 'The loop.';
COMMENT ON COLUMN worker_heartbeats.beat_at IS 'When it ran last.';
COMMENT ON COLUMN worker_heartbeats.due_at IS 'When its next run is overdue.';

COMMENT ON TABLE unmatched_payments IS 'Payments that match no order, due until Stripe shows them as refunded.';
COMMENT ON COLUMN unmatched_payments.stripe_payment_intent_id IS 'Stripe''s id of the payment.';
COMMENT ON COLUMN unmatched_payments.order_id IS 'The order that the payment names.';
COMMENT ON COLUMN unmatched_payments.amount_minor IS 'What Stripe captured, in minor units.';
COMMENT ON COLUMN unmatched_payments.currency IS 'ISO 4217.';
COMMENT ON COLUMN unmatched_payments.created_at IS 'When it was learned.';
COMMENT ON COLUMN unmatched_payments.next_attempt_at IS
'When the sweep claims it next; null once it is refunded whole.';
COMMENT ON COLUMN unmatched_payments.attempts IS 'Claims by the sweep.';
