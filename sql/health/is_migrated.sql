-- health/is_migrated: whether the newest migration was applied, and whether the server is read-only.
-- A standby is read-only, and so is a demoted primary.
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
