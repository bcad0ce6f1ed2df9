-- audit_state/list_carts: carts by id, for a full audit.
--
-- callers  service.shop.audit._everything
-- param    $1 after_id uuid
-- returns  many by id; none = there is no other cart
-- locks    none
-- waits    none
-- index    carts_pkey
-- rows     0..200 by LIMIT
-- guards   none
SELECT id
FROM carts
WHERE id > $1
ORDER BY id
LIMIT 200;
