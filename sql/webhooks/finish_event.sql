-- webhooks/finish_event: record an event's outcome; with $4 false a job still has to process the event.
-- An event that had an effect keeps its outcome when applying it again changes nothing.
-- An event that turns out to be about an erased order is reduced to $5, as in webhooks/record_event.
--
-- callers  service.shop.webhooks._finish
-- param    $1 event_id text
-- param    $2 outcome text
-- param    $3 order_id uuid null
-- param    $4 handled boolean
-- param    $5 reduced_payload jsonb
-- returns  none
-- locks    orders KEY SHARE; stripe_events NO KEY UPDATE; to commit
-- waits    on orders, stripe_events for the order's erasure, and for a transaction that handles the same event; 55P03
--          after lock_timeout -> busy
-- index    orders_pkey, stripe_events_pkey
-- rows     0..1
-- guards   none
WITH named_order AS MATERIALIZED (
    SELECT
        id,
        erased_at IS NOT NULL AS erased
    FROM orders
    WHERE id = $3
    FOR KEY SHARE
)

UPDATE stripe_events
SET
    payload = CASE WHEN (SELECT erased FROM named_order) THEN $5::jsonb ELSE payload END,
    outcome = CASE
        WHEN
            $2 = 'unchanged'
            AND outcome IN ('applied', 'late_money_refunded', 'paid_twice', 'unmatched_refunded')
            THEN outcome
        ELSE $2
    END,
    order_id = (SELECT id FROM named_order),
    handled_at = CASE WHEN $4 THEN now() END,
    next_attempt_at = CASE WHEN NOT $4 THEN greatest(next_attempt_at, now()) END
WHERE id = $1;
