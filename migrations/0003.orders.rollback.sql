-- Loses every order, payment, refund and history.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE order_events;
DROP TABLE refunds;
DROP TABLE payments;
DROP TABLE order_items;
DROP TABLE orders;
