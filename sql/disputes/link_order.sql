-- disputes/link_order: give the disputes of a payment their order, which was not known when they were recorded.
--
-- callers  service.shop.disputes.record
-- param    $1 stripe_payment_intent_id text
-- param    $2 order_id uuid
-- returns  none
-- locks    disputes NO KEY UPDATE by stripe_dispute_id; orders KEY SHARE; to commit
-- waits    on orders, disputes for a transaction that erases the order or records the same dispute; 55P03 after
--          lock_timeout -> busy
-- index    disputes_by_payment, orders_pkey
-- rows     0..n, usually 0
-- guards   none
WITH dispute AS MATERIALIZED (
    SELECT ctid
    FROM disputes
    WHERE stripe_payment_intent_id = $1 AND order_id IS NULL
    ORDER BY stripe_dispute_id
    FOR NO KEY UPDATE
)

UPDATE disputes
SET order_id = (SELECT id FROM orders WHERE orders.id = $2)
WHERE ctid = any(array(SELECT ctid FROM dispute));
