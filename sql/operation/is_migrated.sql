-- operation/is_migrated: whether the newest index is there.
--
-- caller   service.infra.health._postgresql
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT to_regclass('orders_pending_by_client') IS NOT NULL AS migrated;
