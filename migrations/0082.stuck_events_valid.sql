-- Validates the constraint of 0081 for old rows.
--
-- depends: 0081.stuck_events
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stuck_items while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: marks it as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE stuck_items VALIDATE CONSTRAINT stuck_items_kind_known;
