-- Validates the constraints of 0055 for old rows.
--
-- depends: 0055.actors
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on order_events, stock_movements, refunds while each is read: VACUUM and DDL wait, reads
--       and writes do not
-- undo: marks them as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE order_events VALIDATE CONSTRAINT order_events_actor_form;
ALTER TABLE stock_movements VALIDATE CONSTRAINT stock_movements_actor_form;
ALTER TABLE refunds VALIDATE CONSTRAINT refunds_actor_form;
