-- checkout/count_pending: how many unpaid orders a client has.
--
-- callers  service.shop.checkout.enforce_pending_limit
-- param    $1 client bytea
-- returns  one
-- locks    none
-- waits    none
-- index    orders_pending_by_client
-- rows     1
-- guards   none
SELECT count(*) AS pending
FROM orders
WHERE client = $1 AND status = 'PENDING_PAYMENT';
