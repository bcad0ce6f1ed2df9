-- audit/nothing_is_overdue: no pending order is 120 s past its hold; no paid order and no event waits for 120 s.
-- No refund is open for a day, no outgoing event undelivered for an hour to an endpoint that works. What people settled
-- elsewhere is left out.
-- While Stripe is unreachable, pending orders past their hold are expected here.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    orders_by_status, payments_one_per_order, stripe_events_due, refunds_open, stuck_items_pkey,
--          event_endpoints_active, event_leases_pkey, event_deliveries_due
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    'order ' || orders.id AS subject,
    'pending, its hold ended at ' || orders.expires_at AS detail
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE
    orders.status = 'PENDING_PAYMENT'
    AND orders.expires_at < now() - interval '120 seconds'
    AND payments.status <> 'PROCESSING'
UNION ALL
SELECT
    'order ' || orders.id AS subject,
    'not fulfilled, paid at ' || orders.paid_at AS detail
FROM orders
INNER JOIN payments ON orders.id = payments.order_id
WHERE
    orders.status = 'PAID'
    AND orders.paid_at < now() - interval '120 seconds'
    AND payments.status = 'SUCCEEDED'
UNION ALL
SELECT
    'event ' || id AS subject,
    type || ', received at ' || received_at AS detail
FROM stripe_events
WHERE
    next_attempt_at IS NOT NULL
    AND received_at < now() - interval '120 seconds'
    AND (
        SELECT stuck_items.resolved
        FROM stuck_items
        WHERE stuck_items.kind = 'event_unhandled' AND stuck_items.id = stripe_events.id
    ) IS NOT TRUE
UNION ALL
SELECT
    'refund ' || id AS subject,
    status || ' since ' || created_at || ', of order ' || order_id AS detail
FROM refunds
WHERE
    status IN ('REQUESTED', 'PENDING')
    AND created_at < now() - interval '1 day'
    AND (
        SELECT stuck_items.resolved
        FROM stuck_items
        WHERE stuck_items.kind = 'refund_open' AND stuck_items.id = refunds.id::text
    ) IS NOT TRUE
UNION ALL
SELECT
    'delivery ' || event_deliveries.id AS subject,
    event_deliveries.type || ' to endpoint ' || event_deliveries.endpoint_id || ', written at '
    || event_deliveries.created_at AS detail
FROM event_endpoints
INNER JOIN event_leases ON event_endpoints.id = event_leases.endpoint_id
INNER JOIN event_deliveries ON event_endpoints.id = event_deliveries.endpoint_id
WHERE
    event_endpoints.active
    AND event_leases.failing_since IS NULL
    AND event_deliveries.next_attempt_at IS NOT NULL
    AND greatest(event_deliveries.created_at, event_leases.working_since) < now() - interval '1 hour'
ORDER BY subject
LIMIT 1000;
