-- deliveries/list_due_products: the products whose change of stock may now be announced.
--
-- callers  service.shop.deliveries.Deliveries.renew
-- param    $1 limit bigint
-- returns  many by due_at; none = nothing is due, or no endpoint receives these events
-- locks    none
-- waits    none
-- index    product_announcements_due, event_endpoints_active
-- rows     0..100 by service.shop.deliveries.BATCH, usually 0
-- guards   none
SELECT product_id
FROM product_announcements
WHERE
    due_at <= now()
    AND EXISTS (
        SELECT FROM event_endpoints
        WHERE active AND types && ARRAY['product.sold_out', 'product.restocked']
    )
ORDER BY due_at
LIMIT $1;
