-- imports/clear_lines: delete the staged lines, of this import or of one that was killed.
--
-- callers  service.shop.imports._clear_lines
-- returns  none
-- locks    import_lines UPDATE in no order; to commit
-- waits    on import_lines for another run that clears them; 55P03 after lock_timeout -> busy
-- index    none; reads whole tables
-- rows     0..n
-- guards   none
DELETE FROM import_lines;
