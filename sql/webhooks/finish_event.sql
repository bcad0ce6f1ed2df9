-- webhooks/finish_event: record an event's outcome; with $4 false a job still has to process the event.
-- An event that had an effect keeps its outcome when applying it again changes nothing.
--
-- callers  service.shop.webhooks._finish
-- param    $1 event_id text
-- param    $2 outcome text
-- param    $3 order_id uuid null
-- param    $4 handled boolean
-- returns  none
-- locks    stripe_events NO KEY UPDATE; orders KEY SHARE; to commit
-- waits    on stripe_events for a transaction that handles the same event; 55P03 after lock_timeout -> busy
-- index    orders_pkey, stripe_events_pkey
-- rows     0..1
-- guards   none
UPDATE stripe_events
SET
    outcome = CASE
        WHEN
            $2 = 'unchanged'
            AND outcome IN ('applied', 'late_money_refunded', 'paid_twice', 'unmatched_refunded')
            THEN outcome
        ELSE $2
    END,
    order_id = (SELECT id FROM orders WHERE orders.id = $3),
    handled_at = CASE WHEN $4 THEN now() END,
    next_attempt_at = CASE WHEN NOT $4 THEN greatest(next_attempt_at, now()) END
WHERE id = $1;
