-- Loses the index and no data; each `erase` by e-mail address then reads all orders.

SET lock_timeout = '10min';
SET statement_timeout = '1h';

DROP INDEX CONCURRENTLY IF EXISTS orders_by_email_digest;

-- A validated constraint cannot be marked as not validated, so each is created again. One statement: stopped after a
-- DROP, this could run again, but the migration itself could not.
SET lock_timeout = '2s';
ALTER TABLE orders
DROP CONSTRAINT IF EXISTS orders_email_digest_form,
DROP CONSTRAINT IF EXISTS orders_erased_has_no_email,
ADD CONSTRAINT orders_email_digest_form CHECK (
    email_digest IS NULL OR (octet_length(email_digest) = 32 AND email IS NOT NULL)
) NOT VALID,
ADD CONSTRAINT orders_erased_has_no_email CHECK (erased_at IS NULL OR email IS NULL) NOT VALID;
