-- Validates the constraint of 0075 for old rows.
--
-- depends: 0075.refund_items
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on stock_movements while it is read: VACUUM and DDL wait, reads and writes do not
-- undo: marks it as not validated again

SET LOCAL lock_timeout = '10min';
SET LOCAL statement_timeout = '1h';

ALTER TABLE stock_movements VALIDATE CONSTRAINT stock_movements_order_form;
