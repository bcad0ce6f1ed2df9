-- catalog/list_movements: a keyset page of a product's ledger, newest first.
--
-- callers  service.shop.catalog.list_movements
-- param    $1 product_id bigint
-- param    $2 before_id bigint
-- param    $3 limit bigint
-- returns  many by id descending; none = no older movement
-- locks    none
-- waits    none
-- index    stock_movements_pkey
-- rows     0..101 by LIMIT $3, usually 21
-- guards   none
SELECT
    id,
    created_at AS at,
    delta,
    reason,
    actor,
    order_id
FROM stock_movements
WHERE product_id = $1 AND id < $2
ORDER BY id DESC
LIMIT $3;
