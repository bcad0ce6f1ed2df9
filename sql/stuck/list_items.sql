-- stuck/list_items: a keyset page of all that is stuck, oldest first.
--
-- callers  service.shop.stuck.list_items
-- param    $1 after_number bigint
-- param    $2 limit bigint
-- returns  many by number; none = nothing newer is stuck
-- locks    none
-- waits    none
-- index    stuck_items_open
-- rows     0..101 by LIMIT $2, usually 0
-- guards   none
SELECT
    number,
    kind,
    order_id,
    id,
    reason,
    since
FROM stuck_items
WHERE number > $1 AND ended_at IS NULL
ORDER BY number
LIMIT $2;
