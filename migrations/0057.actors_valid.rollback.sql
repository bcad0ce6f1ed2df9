-- Loses no data; old rows count as unchecked again.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- A validated constraint cannot be marked as not validated, so each is created again.
ALTER TABLE order_events
DROP CONSTRAINT order_events_actor_form,
ADD CONSTRAINT order_events_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID;
ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_actor_form,
ADD CONSTRAINT stock_movements_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID;
ALTER TABLE refunds
DROP CONSTRAINT refunds_actor_form,
ADD CONSTRAINT refunds_actor_form CHECK (
    actor ~ '^(customer|stripe|admin|open|(user|key|job|command):.+)$' AND char_length(actor) <= 300
) NOT VALID;
