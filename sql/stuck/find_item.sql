-- stuck/find_item: an item that is in the list.
--
-- callers  service.shop.stuck.resolve
-- param    $1 kind text
-- param    $2 id text
-- returns  one or none; none = it is not in the list
-- locks    none
-- waits    none
-- index    stuck_items_pkey
-- rows     0..1
-- guards   none
SELECT
    number,
    kind,
    order_id,
    id,
    reason,
    since
FROM stuck_items
WHERE kind = $1 AND id = $2 AND ended_at IS NULL;
