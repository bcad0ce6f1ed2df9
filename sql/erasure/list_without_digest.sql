-- erasure/list_without_digest: the orders with an e-mail address whose hash is missing.
-- Old code wrote them, and migration 0046 left them out: their row was locked, or the address is not ASCII.
--
-- callers  service.shop.erasure._find
-- returns  many in no order; none = each address has its hash
-- locks    none
-- waits    none
-- index    orders_by_email
-- rows     0..n, usually 0
-- guards   none
SELECT
    id,
    email
FROM orders
WHERE email_digest IS NULL AND email IS NOT NULL;
