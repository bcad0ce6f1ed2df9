-- audit_state/list_orders_by_refunds: the orders of the refunds that have changed since a time, oldest change first.
-- WITH TIES, so that the last change listed is a position after which nothing is left out.
--
-- callers  service.shop.audit._read_refunds
-- param    $1 after timestamptz
-- returns  many by updated_at; none = nothing has changed
-- locks    none
-- waits    none
-- index    refunds_changed
-- rows     0..n, usually 0
-- guards   none
SELECT
    order_id,
    updated_at AS changed_at
FROM refunds
WHERE updated_at > $1
ORDER BY updated_at
FETCH FIRST 1000 ROWS WITH TIES;
