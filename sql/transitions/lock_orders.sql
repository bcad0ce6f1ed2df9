-- transitions/lock_orders: lock many orders for one transition, as transitions/lock_order locks one.
-- Both exist because every payment runs lock_order: this statement takes up to twice as long for a single order.
-- All carts by id, then all orders by id, then their payments: the tables in the order of transitions/lock_order.
--
-- callers  service.shop.transitions.lock_all
-- param    $1 order_ids uuid[]
-- returns  many by id; none = no such orders
-- locks    carts, orders NO KEY UPDATE by id; payments NO KEY UPDATE by order_id; to commit
-- waits    on carts, orders, payments for transitions of the orders and edits of their carts; 55P03 after lock_timeout
--          -> busy
-- index    carts_pkey, orders_pkey, payments_one_per_order
-- rows     0..100 by service.shop.sweep.BATCH, usually 0
-- guards   none
WITH locked_cart AS MATERIALIZED (
    SELECT id
    FROM carts
    WHERE id = any(array(SELECT cart_id FROM orders WHERE id = any($1)))
    ORDER BY id
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
    -- After their carts, which never change.
    WHERE id = any($1) AND (SELECT count(*) FROM locked_cart) > 0
    ORDER BY id
    FOR NO KEY UPDATE
),

locked_payment AS MATERIALIZED (
    SELECT
        order_id,
        status,
        attempt,
        stripe_session_id,
        stripe_payment_intent_id,
        refunded_minor,
        coalesce(captured_minor, amount_minor) AS captured_minor
    FROM payments
    WHERE order_id = any(array(SELECT id FROM locked_order))
    ORDER BY order_id
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
FROM locked_order
INNER JOIN locked_payment ON locked_order.id = locked_payment.order_id
ORDER BY locked_order.id;
