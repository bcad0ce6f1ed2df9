-- audit/carts_match_orders: each of these carts is CHECKED_OUT exactly while it has a live order.
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 cart_ids uuid[]
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    carts_pkey, orders_one_live_per_cart
-- rows     0..n, usually 0
-- guards   none
SELECT
    'cart ' || carts.id AS subject,
    carts.status || coalesce(', live order ' || orders.id, ', no live order') AS detail
FROM carts
LEFT JOIN orders ON carts.id = orders.cart_id AND orders.status <> 'CANCELLED'
WHERE carts.id = any($1) AND (carts.status = 'CHECKED_OUT') <> (orders.id IS NOT NULL)
ORDER BY subject;
