-- imports/clear_lines: delete up to 10,000 staged lines of these runs: of this one, or of all that were killed.
-- So many take less than the time limit of a statement on a slow server too.
--
-- callers  service.shop.imports._clear_lines
-- param    $1 first_run uuid
-- param    $2 last_run uuid
-- returns  none
-- locks    import_lines UPDATE in no order; to commit
-- waits    on import_lines for another run that clears them; 55P03 after lock_timeout -> busy
-- index    import_lines_pkey
-- rows     0..10000 by service.shop.imports.CLEARED
-- guards   none
DELETE FROM import_lines
WHERE ctid = any(array(
    SELECT staged.ctid
    FROM (
        SELECT ctid
        FROM import_lines
        WHERE run >= $1 AND run <= $2
        ORDER BY
            run,
            line
        LIMIT 10000
    ) AS staged
));
