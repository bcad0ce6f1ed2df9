-- erasure/lock_events: the stored events of these orders, and others that name one of the keys.
-- $2: ids of orders and payment intents, and e-mail addresses in lower case. The index has the same expression and the
-- same condition.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- param    $2 keys text[]
-- returns  many by id; none = no such event is stored
-- locks    stripe_events NO KEY UPDATE by id; to commit
-- waits    on stripe_events for a transaction that handles one of the events; 55P03 after lock_timeout -> busy
-- index    stripe_events_by_order, stripe_events_by_person
-- rows     0..n, usually 3
-- guards   none
SELECT
    id,
    payload
FROM stripe_events
WHERE
    (order_id IS NOT NULL AND order_id = any($1))
    OR (
        (
            order_id IS NULL
            OR outcome IS DISTINCT FROM 'applied'
            OR payload #>> '{data,object,payment_status}' IS DISTINCT FROM 'paid'
        )
        AND ARRAY[
            payload #>> '{data,object,metadata,order_id}',
            payload #>> '{data,object,client_reference_id}',
            payload #>> '{data,object,payment_intent}',
            lower(payload #>> '{data,object,customer_details,email}'),
            lower(payload #>> '{data,object,customer_email}'),
            lower(payload #>> '{data,object,billing_details,email}'),
            lower(payload #>> '{data,object,receipt_email}')
        ] && $2
    )
ORDER BY id
FOR NO KEY UPDATE;
