-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so it is created again.
ALTER TABLE stuck_items
DROP CONSTRAINT stuck_items_kind_known,
ADD CONSTRAINT stuck_items_kind_known CHECK (
    kind IN (
        'unmatched_payment', 'refund_failed', 'refund_open', 'dispute_open', 'event_unhandled', 'event_undelivered',
        'endpoint_switched_off'
    )
) NOT VALID;
