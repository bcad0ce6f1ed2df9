-- deliveries/list_due_products: the products whose change of stock may now be announced.
--
-- callers  service.shop.deliveries.Deliveries._announce
-- param    $1 limit bigint
-- returns  many by due_at; none = nothing is due
-- locks    none
-- waits    none
-- index    product_announcements_due
-- rows     0..100 by service.shop.deliveries.BATCH, usually 0
-- guards   none
SELECT product_id
FROM product_announcements
WHERE due_at <= now()
ORDER BY due_at
LIMIT $1;
