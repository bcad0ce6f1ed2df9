-- transitions/lock_order: hold an order for a transition, with its cart above it and its payment below.
-- Every transition starts here, so that all of them queue in the same order.
--
-- callers  service.shop.transitions.lock
-- param    $1 order_id uuid
-- returns  one or none; none = there is no such order
-- locks    carts, orders, payments NO KEY UPDATE; to commit
-- waits    on carts, orders, payments for transitions of the order and edits of its cart; 55P03 after lock_timeout ->
--          busy
-- index    carts_pkey, orders_pkey, payments_one_per_order
-- rows     0..1
-- guards   none
WITH cart AS MATERIALIZED (
    SELECT id
    FROM carts
    WHERE id = (SELECT cart_id FROM orders WHERE id = $1)
    FOR NO KEY UPDATE
),

held AS MATERIALIZED (
    SELECT
        id,
        cart_id,
        status,
        hold,
        total_minor,
        currency
    FROM orders
    -- After the cart, which it never leaves.
    WHERE id = $1 AND (SELECT id FROM cart) IS NOT NULL
    FOR NO KEY UPDATE
),

payment AS MATERIALIZED (
    SELECT
        status,
        attempt,
        stripe_session_id,
        stripe_payment_intent_id,
        refunded_minor,
        coalesce(captured_minor, amount_minor) AS captured_minor
    FROM payments
    WHERE order_id = (SELECT id FROM held)
    FOR NO KEY UPDATE
)

SELECT
    held.id,
    held.cart_id,
    held.status,
    held.hold AS hold_number,
    held.total_minor,
    held.currency,
    payment.status AS payment_status,
    payment.attempt,
    payment.stripe_session_id,
    payment.stripe_payment_intent_id,
    payment.captured_minor,
    payment.refunded_minor
FROM held, payment;
