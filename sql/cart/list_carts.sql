-- cart/list_carts: a keyset page of a user's carts, newest first.
--
-- callers  service.shop.cart.list_carts
-- param    $1 user_id text
-- param    $2 before_id uuid
-- param    $3 limit bigint
-- returns  many by id descending; none = no older carts
-- locks    none
-- waits    none
-- index    carts_by_user, carts_pkey
-- rows     0..101 by LIMIT $3, usually 3
-- guards   none
SELECT
    carts.id,
    carts.status,
    carts.currency,
    carts.reference,
    carts.created_at,
    carts.updated_at,
    -- An abandoned cart may have been deleted.
    replacement.id AS replaced_by
FROM carts
LEFT JOIN carts AS replacement ON carts.replaced_by = replacement.id
WHERE carts.user_id = $1 AND carts.id < $2
ORDER BY carts.id DESC
LIMIT $3;
