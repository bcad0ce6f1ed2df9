-- imports/lock_import: how far a file was imported, while this transaction continues.
-- Two runs of one file apply each line once: the second one waits here and finds another position.
--
-- callers  service.shop.imports._import, service.shop.imports._apply
-- param    $1 digest bytea
-- returns  one or none; none = the file was never imported
-- locks    imports NO KEY UPDATE; to commit
-- waits    on imports for another run of the file; 55P03 after lock_timeout -> busy
-- index    imports_pkey
-- rows     0..1
-- guards   none
SELECT
    position,
    moved_to,
    skipped,
    unapplied
FROM imports
WHERE digest = $1
FOR NO KEY UPDATE;
