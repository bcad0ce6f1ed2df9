-- Loses when carts were ordered, and the worker's right to delete carts and events.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE DELETE ON carts, stripe_events FROM commerce_worker;
    END IF;
END
$$;

ALTER TABLE carts DROP COLUMN ordered_at;
