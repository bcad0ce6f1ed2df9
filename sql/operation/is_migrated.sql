-- operation/is_migrated: whether the newest table is there.
--
-- caller   service.infra.health._postgresql
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT to_regclass('worker_heartbeats') IS NOT NULL AS migrated;
