-- health/is_migrated: whether this code's migrations were applied, their indexes valid, and the server is read-only.
-- A standby and a demoted primary are read-only. What only newer code migrates or builds does not matter.
-- A stopped CREATE INDEX CONCURRENTLY leaves an index that is written to and never read.
-- Without the first migration or the one that grants this it fails, and readiness says not_migrated.
--
-- callers  service.infra.health._postgresql
-- param    $1 names text[]
-- param    $2 indexes text[]
-- returns  one
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     1
-- guards   none
SELECT
    (
        SELECT count(*)
        FROM _yoyo_migration
        WHERE migration_id = any($1::text[])
    ) = cardinality($1::text[])
    AND NOT EXISTS (
        SELECT
        FROM pg_index
        INNER JOIN pg_class ON pg_index.indexrelid = pg_class.oid
        WHERE NOT pg_index.indisvalid AND pg_class.relname = any($2::text[])
    ) AS migrated,
    current_setting('transaction_read_only')::boolean AS read_only;
