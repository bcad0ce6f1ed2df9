-- erasure/lock_orders: lock orders and their carts before their personal data are erased.
-- Orders FOR UPDATE, because it waits for KEY SHARE too: webhooks/record_event and others read erased_at under KEY
-- SHARE. So each stored event is visible to the next statement of this transaction, or was reduced when it was stored.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- returns  many by id; none = no such orders
-- locks    carts NO KEY UPDATE by id; orders UPDATE by id; to commit
-- waits    on carts, orders for their transitions and claims, and for new rows that refer to them; 55P03 after
--          lock_timeout -> busy
-- index    carts_pkey, orders_pkey
-- rows     0..n, usually 1
-- guards   none
WITH locked_cart AS MATERIALIZED (
    SELECT id
    FROM carts
    WHERE id = any(array(SELECT cart_id FROM orders WHERE id = any($1)))
    ORDER BY id
    FOR NO KEY UPDATE
)

SELECT
    id,
    status,
    email,
    erased_at IS NOT NULL AS erased
FROM orders
-- After their carts, which never change.
WHERE id = any($1) AND (SELECT count(*) FROM locked_cart) > 0
ORDER BY id
FOR UPDATE;
