-- Loses the hashes of e-mail addresses, and when orders were erased.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        -- Revoking a right on a table revokes it on the table's columns too.
        REVOKE SELECT ON orders, payments, order_events, stripe_events, idempotency_keys FROM commerce_readonly;
        GRANT SELECT ON orders, payments, order_events, stripe_events, idempotency_keys TO commerce_readonly;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        REVOKE ALL ON
            orders, payments, order_events, refunds, unmatched_payments, stripe_events, idempotency_keys
        FROM commerce_eraser;
        REVOKE USAGE ON SCHEMA public FROM commerce_eraser;
    END IF;
    IF to_regrole('commerce_app') IS NOT NULL THEN
        REVOKE UPDATE (client, client_network) ON orders FROM commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE UPDATE (payload) ON stripe_events FROM commerce_worker;
        REVOKE UPDATE (client, client_network) ON orders FROM commerce_worker;
    END IF;
END
$$;

-- PostgreSQL's default.
ALTER TABLE orders ALTER COLUMN email SET STATISTICS 100;
ALTER TABLE orders DROP COLUMN erased_at;
ALTER TABLE orders DROP COLUMN email_digest;
