-- stuck/find_open_refunds: which of these refunds have been open for a day.
--
-- callers  service.shop.stuck.list_open
-- param    $1 refund_ids uuid[]
-- returns  many in no order; none = all were decided
-- locks    none
-- waits    none
-- index    refunds_open, refunds_pkey
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
SELECT
    id,
    order_id
FROM refunds
WHERE id = any($1) AND status IN ('REQUESTED', 'PENDING') AND created_at < now() - interval '1 day';
