-- Loses the right to store an event with its outcome; code that does so is refused.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        REVOKE INSERT (outcome, order_id, handled_at) ON stripe_events FROM commerce_app;
    END IF;
END
$$;
