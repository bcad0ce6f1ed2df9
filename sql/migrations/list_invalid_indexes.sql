-- migrations/list_invalid_indexes: the indexes that a stopped CREATE or DROP INDEX CONCURRENTLY has left behind.
-- PostgreSQL still writes to such an index and does not read it.
--
-- callers  service.infra.migrations._invalid_indexes
-- returns  many in no order; none = every index is valid
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..n, usually 0
-- guards   none
SELECT pg_class.relname::text AS name
FROM pg_index
INNER JOIN pg_class ON pg_index.indexrelid = pg_class.oid
WHERE NOT pg_index.indisvalid;
