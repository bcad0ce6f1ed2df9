-- Loses no data. Writers of payments, order_events and stock_movements wait while the old indexes are built.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '10min';

DO $$
BEGIN
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        REVOKE UPDATE (session_parameters) ON payments FROM commerce_worker;
    END IF;
END
$$;

UPDATE payments
SET session_parameters = '{}'
WHERE session_parameters IS NULL;
ALTER TABLE payments
ALTER COLUMN session_parameters SET NOT NULL,
DROP CONSTRAINT payments_parameters_until_attached,
DROP CONSTRAINT payments_one_per_order,
ADD CONSTRAINT payments_pkey PRIMARY KEY (id),
ADD CONSTRAINT payments_one_per_order UNIQUE (order_id);
CREATE UNIQUE INDEX payments_new_key ON payments (order_id);

ALTER TABLE order_events
DROP CONSTRAINT order_events_pkey,
ADD CONSTRAINT order_events_pkey PRIMARY KEY (id);
CREATE INDEX order_events_by_order ON order_events (order_id, id);
CREATE UNIQUE INDEX order_events_new_key ON order_events (order_id, id);

ALTER TABLE stock_movements
DROP CONSTRAINT stock_movements_pkey,
ADD CONSTRAINT stock_movements_pkey PRIMARY KEY (id);
CREATE INDEX stock_movements_by_product ON stock_movements (product_id, id);
CREATE UNIQUE INDEX stock_movements_new_key ON stock_movements (product_id, id);
