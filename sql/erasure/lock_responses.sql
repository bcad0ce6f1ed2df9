-- erasure/lock_responses: the stored responses about these orders.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- returns  many by id; none = nothing is stored
-- locks    idempotency_keys NO KEY UPDATE by id; to commit
-- waits    on idempotency_keys for a request that stores the same key; 55P03 after lock_timeout -> busy
-- index    idempotency_keys_by_order
-- rows     0..n, usually 0
-- guards   none
SELECT
    id,
    answer
FROM idempotency_keys
WHERE order_id = any($1) AND order_id IS NOT NULL AND answer IS NOT NULL
ORDER BY id
FOR NO KEY UPDATE;
