-- The rights, by column, of the API (commerce_app), the worker (commerce_worker) and readers (commerce_readonly).
-- Ledgers and histories only grow: none of these roles may change or delete their rows.
-- Blocks, because a grant to a missing role fails. Without migrations/roles.psql each block does nothing.
-- Locking a row requires the right to update one of its columns.
--
-- depends: 0004.stock_movements 0005.stripe_events 0006.idempotency_keys
-- phase: expand
-- lock: none
-- undo: revokes the grants, so that the service stops under these roles

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DO $$
BEGIN
    IF to_regrole('commerce_app') IS NULL THEN
        RETURN;
    END IF;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public TO commerce_app;
    GRANT SELECT ON
        categories, products, stock_movements, carts, cart_items, orders, order_items, order_events, payments, refunds,
        stripe_events, idempotency_keys
    TO commerce_app;

    GRANT INSERT (name, slug), UPDATE (name, slug), DELETE ON categories TO commerce_app;
    -- The currency of a product cannot change.
    GRANT
        INSERT (name, description, category_id, price_minor, currency, stock, active),
        UPDATE (name, description, category_id, price_minor, stock, active, version, updated_at)
    ON products TO commerce_app;
    GRANT INSERT (product_id, delta, reason, order_id, hold) ON stock_movements TO commerce_app;

    GRANT INSERT (id), UPDATE (status, currency, updated_at) ON carts TO commerce_app;
    GRANT INSERT (cart_id, product_id, quantity), UPDATE (quantity), DELETE ON cart_items TO commerce_app;

    -- An order begins as pending, and only the worker fulfils it. Its cart, total and currency cannot change.
    GRANT
        INSERT (id, cart_id, total_minor, currency, expires_at, next_attempt_at),
        UPDATE (status, email, hold, paid_at, cancelled_at, next_attempt_at, attempts)
    ON orders TO commerce_app;
    GRANT INSERT (order_id, product_id, name, quantity, unit_price_minor) ON order_items TO commerce_app;
    GRANT INSERT (order_id, from_status, to_status, cause, note) ON order_events TO commerce_app;
    GRANT
        INSERT (id, order_id, amount_minor, currency, session_parameters, session_expires_at, claimed_until),
        UPDATE (
            status, refunded_minor, attempt, session_parameters, session_expires_at, claimed_until, stripe_session_id,
            checkout_url, stripe_payment_intent_id, updated_at
        )
    ON payments TO commerce_app;
    -- The API decides refunds. The worker records what Stripe makes of them.
    GRANT INSERT (id, order_id, stripe_payment_intent_id, amount_minor, cause, restock, next_attempt_at) ON refunds
    TO commerce_app;

    -- The payload of an event cannot change.
    GRANT
        INSERT (id, type, payload, next_attempt_at),
        UPDATE (order_id, outcome, handled_at, next_attempt_at)
    ON stripe_events TO commerce_app;
    GRANT
        INSERT (id, request_digest, order_id, status, location, answer),
        UPDATE (request_digest, order_id, status, location, answer, created_at)
    ON idempotency_keys TO commerce_app;
END
$$;

DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public TO commerce_worker;
    GRANT SELECT ON
        products, stock_movements, carts, orders, order_items, order_events, payments, refunds, stripe_events
    TO commerce_worker;

    GRANT UPDATE (stock, updated_at) ON products TO commerce_worker;
    GRANT INSERT (product_id, delta, reason, order_id, hold) ON stock_movements TO commerce_worker;
    GRANT UPDATE (status, updated_at) ON carts TO commerce_worker;
    GRANT UPDATE (status, email, hold, paid_at, fulfilled_at, cancelled_at, next_attempt_at, attempts) ON orders
    TO commerce_worker;
    GRANT INSERT (order_id, from_status, to_status, cause, note) ON order_events TO commerce_worker;
    GRANT UPDATE (
        status, refunded_minor, claimed_until, stripe_session_id, checkout_url, stripe_payment_intent_id, updated_at
    ) ON payments TO commerce_worker;
    GRANT
        INSERT (
            id, order_id, stripe_payment_intent_id, amount_minor, cause, restock, status, stripe_refund_id,
            next_attempt_at
        ),
        UPDATE (status, stripe_refund_id, next_attempt_at, attempts, updated_at)
    ON refunds TO commerce_worker;
    -- `replay` stores events too, and runs as the worker.
    GRANT
        INSERT (id, type, payload, next_attempt_at),
        UPDATE (order_id, outcome, handled_at, next_attempt_at, attempts)
    ON stripe_events TO commerce_worker;
    -- The worker deletes old keys and reads no responses. UPDATE is needed only to lock a row.
    GRANT SELECT (id, created_at), UPDATE (created_at), DELETE ON idempotency_keys TO commerce_worker;
END
$$;

DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public TO commerce_readonly;
    GRANT SELECT ON
        categories, products, stock_movements, carts, cart_items, orders, order_items, order_events, payments, refunds,
        stripe_events, idempotency_keys
    TO commerce_readonly;
END
$$;
