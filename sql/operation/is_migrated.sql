-- operation/is_migrated: whether the newest index is there, and the right that the newest grant gives.
-- Also whether the server is read-only, as a standby or a demoted primary is.
--
-- caller   service.infra.health._postgresql
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT
    CASE
        WHEN to_regclass('payments_captured_otherwise') IS NULL THEN false
        ELSE has_column_privilege('payments', 'captured_minor', 'UPDATE')
    END AS migrated,
    current_setting('transaction_read_only')::boolean AS read_only;
