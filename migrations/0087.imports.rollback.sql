-- Loses which files were imported: a file that is imported again then moves its stock again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE import_lines;
DROP TABLE imports;
