-- stuck/list_items_of_kind: a keyset page of what is stuck of one kind, oldest first.
--
-- callers  service.shop.stuck.list_items
-- param    $1 kind text
-- param    $2 after_number bigint
-- param    $3 limit bigint
-- returns  many by number; none = nothing newer of this kind is stuck
-- locks    none
-- waits    none
-- index    stuck_items_open
-- rows     0..101 by LIMIT $3, usually 0
-- guards   none
SELECT
    number,
    kind,
    order_id,
    id,
    reason,
    since
FROM stuck_items
WHERE kind = $1 AND number > $2 AND ended_at IS NULL
ORDER BY number
LIMIT $3;
