-- audit_state/read_ends: the newest numbers of events and movements, and the current time.
-- A later statement reads the running transactions: one that drew a number before is among them, or has ended.
--
-- callers  service.shop.audit._read_changes, service.shop.audit._check_payments, service.shop.audit._check_whole
-- returns  one
-- locks    none
-- waits    none
-- index    none
-- rows     1
-- guards   none
SELECT
    -- A sequence that was never used already has 1 as its last value.
    CASE WHEN order_events_id_seq.is_called THEN order_events_id_seq.last_value ELSE 0 END AS event_id,
    CASE WHEN stock_movements_id_seq.is_called THEN stock_movements_id_seq.last_value ELSE 0 END AS movement_id,
    now() AS at
FROM order_events_id_seq, stock_movements_id_seq;
