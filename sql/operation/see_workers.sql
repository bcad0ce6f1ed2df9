-- operation/see_workers: the worker that is doing best, of those seen lately.
-- Lately is three times as long as they may take between two signs of life.
--
-- caller   service.infra.health._postgresql
-- returns  one or none; none = no worker has been seen; a late that is not empty = none of them is all well
-- locks    none
-- waits    none
-- index    none
-- rows     0..1 of a few
-- guards   none
SELECT late
FROM worker_heartbeats
WHERE seen_at > now() - interval '15 seconds'
ORDER BY late
LIMIT 1;
