-- retention/delete_carts: remove carts that were left behind, with their lines, a batch at a time, oldest first.
-- A cart that is edited or checked out meanwhile has a newer updated_at once its lock is had, and stays.
-- The orders are looked at too, for carts ordered by code that did not write ordered_at yet.
-- An array, as the planner would take a list of unknown length for a long one, and read the table whole to join it.
--
-- callers  service.shop.retention.delete_expired
-- param    $1 days integer
-- param    $2 limit bigint
-- returns  none
-- locks    carts UPDATE SKIP LOCKED; cart_items UPDATE in no order; to commit
-- waits    for nothing: rows held elsewhere are skipped, and who takes a line or an order to a cart holds that first
-- index    carts_never_ordered, orders_by_cart, carts_pkey
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
DELETE FROM carts
WHERE id = any(array(
    SELECT id
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
