-- operation/list_late_loops: which of these loops have not come round in time, in any worker.
-- A loop whose row is gone is late too: nothing shows that it has come round.
--
-- caller   service.infra.health._postgresql
-- param    $1 loops text[]
-- returns  many by loop; none = all have
-- locks    none
-- waits    none
-- index    worker_heartbeats_pkey
-- rows     0..5 by LIMIT, usually 0
-- guards   none
SELECT wanted.loop
FROM unnest($1::text[]) AS wanted (loop)
WHERE NOT EXISTS (SELECT FROM worker_heartbeats AS beat WHERE beat.loop = wanted.loop AND beat.due_at >= now())
ORDER BY wanted.loop
LIMIT 5;
