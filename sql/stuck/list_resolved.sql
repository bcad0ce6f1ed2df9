-- stuck/list_resolved: what people have settled elsewhere for an order: no refund is made for it any more.
--
-- callers  service.shop.stuck.resolved_ids
-- param    $1 order_id uuid
-- returns  many by id; none = nothing
-- locks    none
-- waits    none
-- index    stuck_items_by_order
-- rows     0..n, usually 0
-- guards   none
SELECT id
FROM stuck_items
WHERE order_id = $1 AND resolved
ORDER BY id;
