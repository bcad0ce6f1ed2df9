-- stuck/resolve_item: take an item off the list that people settled elsewhere.
--
-- callers  service.shop.stuck.resolve
-- param    $1 kind text
-- param    $2 id text
-- returns  none
-- locks    stuck_items NO KEY UPDATE; to commit
-- waits    on stuck_items for a transaction that lists, ends or resolves the same; 55P03 after lock_timeout -> busy
-- index    stuck_items_pkey
-- rows     0..1
-- guards   none
UPDATE stuck_items
SET
    ended_at = now(),
    resolved = true
WHERE kind = $1 AND id = $2 AND ended_at IS NULL;
