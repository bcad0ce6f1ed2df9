-- health/is_migrated: whether the newest table is there, and the right that the newest migration grants.
-- Also whether the server is read-only, as a standby or a demoted primary is.
--
-- callers  service.infra.health._postgresql
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT
    CASE
        WHEN to_regclass('unmatched_payments') IS NULL THEN false
        ELSE has_column_privilege('unmatched_payments', 'order_id', 'INSERT')
    END AS migrated,
    current_setting('transaction_read_only')::boolean AS read_only;
