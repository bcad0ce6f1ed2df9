-- health/is_migrated: whether all migrations of this code were applied, and whether the server is read-only.
-- A standby and a demoted primary are read-only. Migrations that only newer code knows do not matter.
-- Without the first migration or the one that grants this it fails, and readiness says not_migrated.
--
-- callers  service.infra.health._postgresql
-- param    $1 names text[]
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
    ) = cardinality($1::text[]) AS migrated,
    current_setting('transaction_read_only')::boolean AS read_only;
