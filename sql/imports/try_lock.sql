-- imports/try_lock: become the only import, or learn at once that another is running; again, to see that it lasts.
--
-- callers  service.shop.imports._only_import
-- returns  one
-- locks    advisory 7263511905; to commit
-- waits    for nothing: the lock is tried once
-- index    none
-- rows     1
-- guards   none
SELECT pg_try_advisory_xact_lock(7263511905) AS locked;
