-- operation/lock_migrations: one migrator at a time; the others wait here, and then find nothing to do.
--
-- caller   service.infra.migrations.migrate
-- returns  one
-- locks    an advisory lock, until the session ends, however it ends
-- waits    for another migrator
-- index    none
-- rows     1
-- guards   none
SELECT pg_advisory_lock(7263511904)::text AS locked;
