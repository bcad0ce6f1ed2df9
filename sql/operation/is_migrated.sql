-- operation/is_migrated: whether the newest index is there, and the right that the newest migration grants.
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
        WHEN to_regclass('orders_pending_by_client') IS NULL THEN false
        ELSE has_column_privilege('stripe_events', 'outcome', 'INSERT')
    END AS migrated;
