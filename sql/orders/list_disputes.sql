-- orders/list_disputes: an order's disputes, oldest first, also those of the payment $2 that are not linked yet.
--
-- callers  service.shop.disputes._linked, service.shop.orders.view
-- param    $1 order_id uuid
-- param    $2 stripe_payment_intent_id text null
-- returns  many by created_at, stripe_dispute_id; none = no dispute
-- locks    none
-- waits    none
-- index    disputes_by_order, disputes_by_payment
-- rows     0..n, usually 0
-- guards   none
SELECT
    stripe_dispute_id AS id,
    status,
    reason,
    amount_minor,
    currency
FROM disputes
WHERE order_id = $1 OR stripe_payment_intent_id = $2
ORDER BY created_at, stripe_dispute_id;
