-- imports/start_import: record that a run of a file begins, or goes on where one was stopped.
--
-- callers  service.shop.imports._start
-- param    $1 digest bytea
-- returns  none
-- locks    imports NO KEY UPDATE; new imports; to commit
-- waits    on imports for another run of the file; 55P03 after lock_timeout -> busy
-- index    imports_pkey
-- rows     1
-- guards   none
INSERT INTO imports (digest)
VALUES ($1)
ON CONFLICT (digest) DO UPDATE SET
    started_at = CASE WHEN imports.position = 0 THEN now() ELSE imports.started_at END;
