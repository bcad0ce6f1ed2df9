-- Two more kinds of what is stuck: an event that was given up, and an endpoint that was switched off.
--
-- depends: 0080.outgoing_events
-- phase: expand
-- lock: ACCESS EXCLUSIVE on stuck_items, briefly, no row is read
-- undo: deletes the items of these kinds

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-constraint
ALTER TABLE stuck_items DROP CONSTRAINT stuck_items_kind_known;
ALTER TABLE stuck_items ADD CONSTRAINT stuck_items_kind_known CHECK (
    kind IN (
        'unmatched_payment', 'refund_failed', 'refund_open', 'dispute_open', 'event_unhandled', 'event_undelivered',
        'endpoint_switched_off'
    )
) NOT VALID;
COMMENT ON COLUMN stuck_items.id IS
'The id, within its kind: of a payment, refund, dispute, event, delivery or endpoint.';
