-- erasure/reduce_event: replace a stored event's payload by the part that is not personal.
--
-- callers  service.shop.erasure._erase
-- param    $1 event_id text
-- param    $2 payload jsonb
-- returns  none
-- locks    stripe_events NO KEY UPDATE; to commit
-- waits    for nothing: erasure/lock_events has locked the event
-- index    stripe_events_pkey
-- rows     0..1
-- guards   none
UPDATE stripe_events
SET payload = $2
WHERE id = $1;
