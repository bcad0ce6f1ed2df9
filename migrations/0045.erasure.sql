-- Personal data can be erased, by a role of its own, and readers no longer see it.
-- An order is found by the SHA-256 of its e-mail address. Code writes it from now on; 0046 fills it for old rows.
-- The hash of the client's address goes as soon as the order is no longer pending.
--
-- depends: 0042.refunds_open
-- phase: expand
-- lock: ACCESS EXCLUSIVE on orders, briefly, no row is read; SHARE UPDATE EXCLUSIVE on orders, briefly
-- undo: drops the hashes and when orders were erased; readers see personal data again

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE orders ADD COLUMN email_digest bytea;
ALTER TABLE orders ADD COLUMN erased_at timestamptz;
ALTER TABLE orders ADD CONSTRAINT orders_email_digest_form CHECK (
    email_digest IS NULL OR (octet_length(email_digest) = 32 AND email IS NOT NULL)
) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_erased_has_no_email CHECK (erased_at IS NULL OR email IS NULL) NOT VALID;
-- ANALYZE copies some of a column's values into the statistics, where nobody would erase them.
ALTER TABLE orders ALTER COLUMN email SET STATISTICS 0;
COMMENT ON COLUMN orders.email_digest IS
'SHA-256 of the e-mail address in lower case and NFC, to find an order by it. Null in rows of older code.';
COMMENT ON COLUMN orders.erased_at IS 'When its personal data were erased. From then on no e-mail address is stored.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT UPDATE (email_digest, client, client_network) ON orders TO commerce_app;
    END IF;
    -- Linking a stored event to an erased order reduces its payload.
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT UPDATE (email_digest, client, client_network) ON orders TO commerce_worker;
        GRANT UPDATE (payload) ON stripe_events TO commerce_worker;
    END IF;
END
$$;

DO $$
BEGIN
    IF to_regrole('commerce_eraser') IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public TO commerce_eraser;
    GRANT
        SELECT (id, number, status, email, email_digest, client, erased_at),
        UPDATE (email, email_digest, client, client_network, erased_at)
    ON orders TO commerce_eraser;
    GRANT
        SELECT (order_id, stripe_payment_intent_id, session_parameters, checkout_url),
        UPDATE (session_parameters, checkout_url)
    ON payments TO commerce_eraser;
    GRANT
        SELECT (order_id, cause, note),
        INSERT (order_id, from_status, to_status, cause, note),
        UPDATE (cause, note)
    ON order_events TO commerce_eraser;
    GRANT SELECT (order_id, stripe_payment_intent_id) ON refunds, unmatched_payments TO commerce_eraser;
    GRANT SELECT (id, order_id, outcome, payload), UPDATE (payload) ON stripe_events TO commerce_eraser;
    GRANT SELECT (id, order_id, answer), UPDATE (answer) ON idempotency_keys TO commerce_eraser;
END
$$;

-- Readers see every column but those with personal data, and not the URLs where an order can be paid.
-- They have no right to a column that is added to these tables later.
DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NULL THEN
        RETURN;
    END IF;
    REVOKE SELECT ON orders, payments, order_events, stripe_events, idempotency_keys FROM commerce_readonly;
    GRANT SELECT (
        id, number, cart_id, status, total_minor, currency, hold, expires_at, created_at, paid_at, fulfilled_at,
        cancelled_at, next_attempt_at, attempts, erased_at
    ) ON orders TO commerce_readonly;
    GRANT SELECT (
        id, order_id, status, amount_minor, currency, refunded_minor, attempt, session_expires_at, claimed_until,
        stripe_session_id, stripe_payment_intent_id, created_at, updated_at, captured_minor, captured_currency
    ) ON payments TO commerce_readonly;
    GRANT SELECT (id, order_id, at, from_status, to_status, cause) ON order_events TO commerce_readonly;
    GRANT SELECT (
        id, type, received_at, order_id, outcome, handled_at, next_attempt_at, attempts
    ) ON stripe_events TO commerce_readonly;
    GRANT SELECT (id, request_digest, order_id, status, location, created_at) ON idempotency_keys TO commerce_readonly;
END
$$;
