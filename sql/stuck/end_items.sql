-- stuck/end_items: take items off the list that are no longer stuck.
--
-- callers  service.shop.stuck.end
-- param    $1 kind text
-- param    $2 ids text[]
-- returns  none
-- locks    stuck_items NO KEY UPDATE in no order; to commit
-- waits    on stuck_items for a transaction that lists, ends or resolves the same; 55P03 after lock_timeout -> busy
-- index    stuck_items_open
-- rows     0..n, usually 0
-- guards   none
UPDATE stuck_items
SET ended_at = now()
WHERE kind = $1 AND id = any($2) AND ended_at IS NULL;
