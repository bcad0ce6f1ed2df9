-- Loses the items of the two new kinds.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DELETE FROM stuck_items WHERE kind IN ('event_undelivered', 'endpoint_switched_off');
-- squawk-ignore ban-drop-constraint
ALTER TABLE stuck_items DROP CONSTRAINT stuck_items_kind_known;
ALTER TABLE stuck_items ADD CONSTRAINT stuck_items_kind_known CHECK (
    kind IN ('unmatched_payment', 'refund_failed', 'refund_open', 'dispute_open', 'event_unhandled')
);
COMMENT ON COLUMN stuck_items.id IS 'The id, within its kind: of a payment, refund, dispute or event.';
