-- retention/delete_carts: delete abandoned carts with their lines, a batch at a time, oldest first.
-- A cart that is edited or checked out meanwhile has a newer updated_at once its lock is granted, and stays.
-- Orders are checked too, for carts ordered by code that did not write ordered_at yet.
-- By place (ctid), so that only the locked version is deleted.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    carts UPDATE SKIP LOCKED; cart_items UPDATE in no order; to commit
-- waits    for nothing: locked carts are skipped, and lines and orders are added only under the cart's lock
-- index    carts_never_ordered, orders_by_cart
-- rows     0..100 by service.shop.retention.BATCH, usually 0
-- guards   none
DELETE FROM carts
WHERE ctid = any(array(
    SELECT ctid
    FROM carts
    WHERE
        ordered_at IS NULL
        AND status = 'OPEN'
        AND created_at < now() - make_interval(days => $1)
        AND updated_at < now() - make_interval(days => $1)
        AND NOT EXISTS (SELECT FROM orders WHERE orders.cart_id = carts.id)
    ORDER BY created_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
));
