-- health/list_timely_loops: which of these worker loops have run in time, in any worker.
-- A loop without a row is left out, because nothing shows that it has run.
--
-- callers  service.infra.health._postgresql
-- param    $1 loops text[]
-- returns  many by loop; none = all are overdue
-- locks    none
-- waits    none
-- index    worker_heartbeats_pkey
-- rows     0..n, usually 6
-- guards   none
SELECT loop
FROM worker_heartbeats
WHERE loop = any($1) AND due_at >= now()
ORDER BY loop;
