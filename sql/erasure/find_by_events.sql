-- erasure/find_by_events: orders without an e-mail address whose events name this one.
-- Their customers did not pay, or paid too late. The index has the same expression and the same condition.
--
-- callers  service.shop.erasure._find
-- param    $1 lower_email text
-- returns  many in no order; none = no such event is stored
-- locks    none
-- waits    none
-- index    stripe_events_by_person, orders_pkey
-- rows     0..n, usually 0
-- guards   none
SELECT DISTINCT orders.id
FROM stripe_events
INNER JOIN orders ON stripe_events.order_id = orders.id
WHERE
    orders.email IS NULL
    AND (
        stripe_events.order_id IS NULL
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
    ] && ARRAY[$1::text];
