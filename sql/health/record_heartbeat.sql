-- health/record_heartbeat: record that a worker loop has run, and when its next run is due.
--
-- callers  service.infra.health.record_heartbeat
-- param    $1 loop text
-- param    $2 seconds double precision
-- returns  none
-- locks    worker_heartbeats NO KEY UPDATE; to commit
-- waits    on worker_heartbeats for another worker that records the same loop; 55P03 after lock_timeout -> busy
-- index    worker_heartbeats_pkey
-- rows     0..1
-- guards   none
UPDATE worker_heartbeats
SET
    beat_at = now(),
    due_at = now() + make_interval(secs => $2)
WHERE loop = $1;
