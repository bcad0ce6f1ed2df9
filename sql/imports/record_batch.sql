-- imports/record_batch: record that the lines up to $2 are applied, all but those in $3.
-- A skipped line whose units an earlier run has moved is not one to move later.
--
-- callers  service.shop.imports._apply
-- param    $1 digest bytea
-- param    $2 last_line bigint
-- param    $3 skip bigint[]
-- returns  none
-- locks    imports NO KEY UPDATE; to commit
-- waits    for nothing: imports/lock_import has locked the row
-- index    imports_pkey
-- rows     1
-- guards   none
UPDATE imports
SET
    position = $2,
    moved_to = greatest(moved_to, $2),
    skipped = coalesce((
        SELECT array_agg(earlier.line)
        FROM unnest(skipped) AS earlier (line)
        WHERE earlier.line <= imports.position OR earlier.line > $2
    ), '{}') || array(
        SELECT line.line
        FROM unnest($3::bigint[]) AS line (line)
        WHERE line.line > imports.moved_to OR line.line = any(imports.skipped)
    ),
    unapplied = unapplied || $3
WHERE digest = $1;
