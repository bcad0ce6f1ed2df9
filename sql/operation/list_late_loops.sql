-- operation/list_late_loops: which of these loops have not come round in time, in any worker.
--
-- caller   service.infra.health._postgresql
-- param    $1 loops text[]
-- returns  many by loop; none = all have
-- locks    none
-- waits    none
-- index    worker_heartbeats_pkey
-- rows     0..5 by LIMIT, usually 0
-- guards   none
SELECT loop
FROM worker_heartbeats
WHERE loop = any($1) AND due_at < now()
ORDER BY loop
LIMIT 5;
