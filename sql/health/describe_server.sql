-- health/describe_server: the server's version, and the role and database of this connection, for the log.
--
-- callers  service.infra.startup._describe_postgresql
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT
    current_setting('server_version') AS version,
    current_user::text AS role,
    current_database()::text AS database;
