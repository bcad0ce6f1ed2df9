-- outbox/add_event: write an event of a refund or dispute for each active endpoint that receives its type.
-- Events of orders are written by the statement that changes the order.
--
-- callers  service.shop.outbox.add_event
-- param    $1 event_id uuid
-- param    $2 type text
-- param    $3 order_id uuid
-- param    $4 data jsonb
-- returns  none
-- locks    new event_deliveries; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    event_endpoints_active
-- rows     0..20 by service.shop.event_endpoints.MAX_ENDPOINTS, usually 0
-- guards   none
INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
SELECT
    id,
    $1,
    $2,
    'order:' || $3::uuid,
    $4
FROM event_endpoints
WHERE active AND $2 = any(types);
