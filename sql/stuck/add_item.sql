-- stuck/add_item: list what no repairer can finish; again, if it had left the list by itself.
-- What people have resolved stays resolved, except what can happen again: a dispute that needs another answer, an
-- endpoint that is switched off again, an event that is given up again.
--
-- callers  service.shop.stuck.add
-- param    $1 kind text
-- param    $2 id text
-- param    $3 order_id uuid null
-- param    $4 reason text
-- returns  one or none; none = it is listed already, or people have resolved it
-- locks    orders KEY SHARE; stuck_items UPDATE; new stuck_items; to commit
-- waits    on orders, stuck_items for a transaction that erases the order or changes the same item; 55P03 after
--          lock_timeout -> busy
-- index    stuck_items_pkey, orders_pkey
-- rows     0..1
-- guards   none
INSERT INTO stuck_items (kind, id, order_id, reason)
VALUES ($1, $2, (SELECT id FROM orders WHERE orders.id = $3), $4)
ON CONFLICT (kind, id) DO UPDATE
    SET
        number = DEFAULT,
        order_id = excluded.order_id,
        reason = excluded.reason,
        since = now(),
        ended_at = NULL,
        resolved = false
    WHERE
    stuck_items.ended_at IS NOT NULL
    AND (
        NOT stuck_items.resolved
        OR $1 IN ('event_undelivered', 'endpoint_switched_off')
        OR ($1 = 'dispute_open' AND stuck_items.reason <> excluded.reason)
    )
RETURNING id;
