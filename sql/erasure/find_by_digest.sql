-- erasure/find_by_digest: the orders with an e-mail address, by its hash.
--
-- callers  service.shop.erasure._find
-- param    $1 email_digest bytea
-- returns  many in no order; none = no order has this address
-- locks    none
-- waits    none
-- index    orders_by_email
-- rows     0..n, usually 3
-- guards   none
SELECT id
FROM orders
WHERE email_digest = $1 AND email IS NOT NULL;
