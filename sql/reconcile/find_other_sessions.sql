-- reconcile/find_other_sessions: the sessions by which these orders are captured, other than those that are listed.
--
-- callers  service.shop.reconcile._compare
-- param    $1 order_ids uuid[]
-- param    $2 session_ids text[]
-- returns  many in no order; none = no order is captured by another session
-- locks    none
-- waits    none
-- index    payments_one_per_order
-- rows     0..100 by service.shop.reconcile.PAGE, usually 0
-- guards   none
SELECT stripe_session_id
FROM payments
WHERE
    order_id = any($1)
    AND status IN ('SUCCEEDED', 'REFUND_PENDING', 'REFUNDED')
    AND stripe_session_id <> all($2);
