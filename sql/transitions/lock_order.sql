-- transitions/lock_order: lock an order for a transition, with its cart and its payment.
-- Every transition of one order starts here, so that all of them queue in one order.
--
-- callers  service.shop.transitions.lock
-- param    $1 order_id uuid
-- returns  one or none; none = no such order
-- locks    carts, orders, payments NO KEY UPDATE; to commit
-- waits    on carts, orders, payments for transitions of the order and edits of its cart; 55P03 after lock_timeout ->
--          busy
-- index    carts_pkey, orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH locked_cart AS MATERIALIZED (
    SELECT id
    FROM carts
    WHERE id = (SELECT cart_id FROM orders WHERE id = $1)
    FOR NO KEY UPDATE
),

locked_order AS MATERIALIZED (
    SELECT
        id,
        cart_id,
        status,
        hold,
        total_minor,
        currency
    FROM orders
    -- After its cart, which never changes.
    WHERE id = $1 AND (SELECT id FROM locked_cart) IS NOT NULL
    FOR NO KEY UPDATE
),

locked_payment AS MATERIALIZED (
    SELECT
        status,
        attempt,
        stripe_session_id,
        stripe_payment_intent_id,
        refunded_minor,
        coalesce(captured_minor, amount_minor) AS captured_minor
    FROM payments
    WHERE order_id = (SELECT id FROM locked_order)
    FOR NO KEY UPDATE
)

SELECT
    locked_order.id,
    locked_order.cart_id,
    locked_order.status,
    locked_order.hold AS hold_number,
    locked_order.total_minor,
    locked_order.currency,
    locked_payment.status AS payment_status,
    locked_payment.attempt,
    locked_payment.stripe_session_id,
    locked_payment.stripe_payment_intent_id,
    locked_payment.captured_minor,
    locked_payment.refunded_minor
FROM locked_order, locked_payment;
