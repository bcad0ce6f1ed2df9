-- health/claim_task: claim a periodic task for a run, or extend the claim of that run.
-- None is claimed while another run has a lease, nor if the last run began less than $4 seconds ago.
--
-- callers  service.infra.claims._claim
-- param    $1 loop text
-- param    $2 run_id uuid
-- param    $3 lease_seconds double precision
-- param    $4 pause_seconds double precision
-- returns  one or none; none = another run has the task
-- locks    worker_heartbeats NO KEY UPDATE; to commit
-- waits    on worker_heartbeats for another worker that claims or records the same task; 55P03 after lock_timeout ->
--          busy
-- index    worker_heartbeats_pkey
-- rows     0..1
-- guards   none
UPDATE worker_heartbeats
SET
    claimed_by = $2,
    claimed_at = CASE WHEN claimed_by = $2 THEN claimed_at ELSE now() END,
    claimed_until = now() + make_interval(secs => $3)
WHERE
    loop = $1
    AND (
        claimed_by = $2
        OR (
            coalesce(claimed_until, '-infinity') < now()
            AND coalesce(claimed_at, '-infinity') <= now() - make_interval(secs => $4)
        )
    )
RETURNING claimed_until;
