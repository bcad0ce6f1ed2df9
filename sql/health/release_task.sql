-- health/release_task: end the claim of a run.
--
-- callers  service.infra.claims.claimed
-- param    $1 loop text
-- param    $2 run_id uuid
-- returns  none
-- locks    worker_heartbeats NO KEY UPDATE; to commit
-- waits    on worker_heartbeats for another worker that claims or records the same task; 55P03 after lock_timeout ->
--          busy
-- index    worker_heartbeats_pkey
-- rows     0..1
-- guards   none
UPDATE worker_heartbeats
SET claimed_until = NULL
WHERE loop = $1 AND claimed_by = $2;
