-- search/find_language: whether PostgreSQL knows a text search configuration.
--
-- callers  service.shop.search.check_language
-- param    $1 language text
-- returns  one or none; none = it does not
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1
-- guards   none
SELECT true AS known
FROM pg_ts_config
WHERE cfgname = $1::text AND pg_ts_config_is_visible(oid);
