-- health/record_heartbeat: a loop of the worker has come round, and when it has to have done so again.
--
-- callers  service.infra.health.beat
-- param    $1 loop text
-- param    $2 seconds double precision
-- returns  none
-- locks    worker_heartbeats NO KEY UPDATE; to commit
-- waits    on worker_heartbeats for another worker doing the same; 55P03 after lock_timeout -> busy
-- index    worker_heartbeats_pkey
-- rows     0..1
-- guards   none
UPDATE worker_heartbeats
SET
    beat_at = now(),
    due_at = now() + make_interval(secs => $2)
WHERE loop = $1;
