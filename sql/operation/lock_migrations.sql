-- operation/lock_migrations: one migrator at a time; the others wait here, and then find nothing to do.
--
-- caller   service.infra.migrations.migrate
-- returns  one
-- locks    advisory 7263511904; to session end
-- waits    on advisory for another migrator; no limit
-- index    none
-- rows     1
-- guards   none
SELECT pg_advisory_lock(7263511904)::text AS locked;
