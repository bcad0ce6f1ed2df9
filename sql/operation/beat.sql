-- operation/beat: a worker's sign of life; those of workers that are long gone are removed on the way.
--
-- caller   service.infra.health.beat
-- param    $1 worker_id uuid
-- param    $2 late text
-- returns  none
-- locks    the worker's row, FOR NO KEY UPDATE; rows an hour old, FOR UPDATE; to commit
-- waits    for a worker that removes the same old rows
-- index    worker_heartbeats_pkey
-- rows     1, and usually none removed
-- guards   none
WITH gone AS (
    DELETE FROM worker_heartbeats
    WHERE seen_at < now() - interval '1 hour' AND worker_id <> $1
)

INSERT INTO worker_heartbeats (worker_id, late)
VALUES ($1, $2)
ON CONFLICT (worker_id) DO UPDATE
    SET
        seen_at = now(),
        late = excluded.late;
