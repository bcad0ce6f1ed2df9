-- erasure/lock_orders: lock orders before their personal data are erased.
-- FOR UPDATE, because it waits for KEY SHARE too: webhooks/record_event and others read erased_at under KEY SHARE. So
-- each stored event is visible to the next statement of this transaction, or was reduced when it was stored.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- returns  many by id; none = no such orders
-- locks    orders UPDATE by id; to commit
-- waits    on orders for their transitions, and for new rows that refer to them; 55P03 after lock_timeout -> busy
-- index    orders_pkey
-- rows     0..n, usually 1
-- guards   none
SELECT
    id,
    status,
    email,
    erased_at IS NOT NULL AS erased
FROM orders
WHERE id = any($1)
ORDER BY id
FOR UPDATE;
