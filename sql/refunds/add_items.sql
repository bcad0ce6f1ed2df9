-- refunds/add_items: the lines of a refund that this transaction has decided.
--
-- callers  service.shop.refunds._add_items
-- param    $1 refund_id uuid
-- param    $2 product_ids bigint[]
-- param    $3 quantities integer[]
-- param    $4 restocks boolean[]
-- returns  none
-- locks    refunds KEY SHARE; new refund_items; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    none
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 1
-- guards   none
INSERT INTO refund_items (refund_id, product_id, quantity, restock)
SELECT
    $1,
    item.product_id,
    item.quantity,
    item.restock
FROM unnest($2::bigint[], $3::integer[], $4::boolean[]) AS item (product_id, quantity, restock);
