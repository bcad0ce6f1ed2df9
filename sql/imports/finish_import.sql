-- imports/finish_import: record that a run has reached the end of its file.
--
-- callers  service.shop.imports._import
-- param    $1 digest bytea
-- returns  none
-- locks    imports NO KEY UPDATE; to commit
-- waits    on imports for another run of the file; 55P03 after lock_timeout -> busy
-- index    imports_pkey
-- rows     1
-- guards   none
UPDATE imports
SET
    position = 0,
    unapplied = '{}',
    finished_at = now()
WHERE digest = $1;
