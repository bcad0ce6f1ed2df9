-- transitions/lock_orders: hold many orders for one transition, as transitions/lock_order holds one.
-- That stays beside it: every payment runs it, and this takes up to twice as long for a single order.
-- All carts by id, then all orders by id, then their payments: in a line with whoever holds one of them.
--
-- callers  service.shop.transitions.lock_all
-- param    $1 order_ids uuid[]
-- returns  many by id; none = there are no such orders
-- locks    carts, orders, payments NO KEY UPDATE by id; to commit
-- waits    on carts, orders, payments for transitions of the orders and edits of their carts; 55P03 after lock_timeout
--          -> busy
-- index    carts_pkey, orders_pkey, payments_one_per_order
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH cart AS MATERIALIZED (
    SELECT id
    FROM carts
    WHERE id = any(array(SELECT cart_id FROM orders WHERE id = any($1)))
    ORDER BY id
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
    -- After the carts, which they never leave.
    WHERE id = any($1) AND (SELECT count(*) FROM cart) > 0
    ORDER BY id
    FOR NO KEY UPDATE
),

payment AS MATERIALIZED (
    SELECT
        order_id,
        status,
        attempt,
        stripe_session_id,
        stripe_payment_intent_id,
        refunded_minor,
        coalesce(captured_minor, amount_minor) AS captured_minor
    FROM payments
    WHERE order_id = any(array(SELECT id FROM held))
    ORDER BY order_id
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
FROM held
INNER JOIN payment ON held.id = payment.order_id
ORDER BY held.id;
