-- erasure/erase_columns: erase the columns that hold personal data of these orders, and count the rows that had any.
-- A new column with personal data is one more line here: tests/sql/personal_data.py lists all columns.
-- Ids, amounts, states and times stay. Of a cause, the client's own id of its request goes; of an actor, which user it
-- was: it may be the customer. The audit log keeps what staff did.
-- A cart that another order needs keeps its owner.
--
-- callers  service.shop.erasure._erase
-- param    $1 order_ids uuid[]
-- returns  one
-- locks    orders NO KEY UPDATE; payments, order_events NO KEY UPDATE in no order; order_shipping UPDATE in no order;
--          stock_movements, refunds NO KEY UPDATE in no order; carts NO KEY UPDATE; to commit
-- waits    on payments, refunds for a request or a sweep that claims one; 55P03 after lock_timeout -> busy;
--          erasure/lock_orders has locked the carts and orders
-- index    orders_pkey, carts_pkey, orders_by_cart, payments_one_per_order, order_shipping_pkey, order_events_pkey,
--          refunds_by_order, stock_movements_once
-- rows     1
-- guards   none
WITH erased_order AS (
    UPDATE orders
    SET
        email = NULL,
        email_digest = NULL,
        client = NULL,
        client_network = NULL,
        user_id = 'erased',
        reference = NULL,
        erased_at = now()
    WHERE
        id = any($1)
        AND (
            erased_at IS NULL
            OR email IS NOT NULL
            OR client IS NOT NULL
            OR reference IS NOT NULL
            OR user_id IS DISTINCT FROM 'erased'
        )
    RETURNING id
),

erased_cart AS (
    UPDATE carts
    SET
        user_id = 'erased',
        reference = NULL
    WHERE
        id = any(array(SELECT cart_id FROM orders WHERE id = any($1)))
        AND (user_id IS DISTINCT FROM 'erased' OR reference IS NOT NULL)
        AND NOT EXISTS (
            SELECT
            FROM orders
            WHERE orders.cart_id = carts.id AND orders.erased_at IS NULL AND orders.id <> all($1)
        )
),

erased_payment AS (
    UPDATE payments
    SET
        session_parameters = '{}',
        checkout_url = NULL
    WHERE order_id = any($1) AND (session_parameters <> '{}' OR checkout_url IS NOT NULL)
    RETURNING order_id
),

erased_event AS (
    UPDATE order_events
    SET
        cause = CASE WHEN starts_with(cause, 'request ') THEN 'request' ELSE cause END,
        actor = CASE WHEN starts_with(actor, 'user:') THEN 'user:erased' ELSE actor END,
        note = CASE WHEN note IS NOT NULL AND note <> 'personal data erased' THEN 'erased' ELSE note END
    WHERE
        order_id = any($1)
        AND (
            starts_with(cause, 'request ')
            OR (starts_with(actor, 'user:') AND actor <> 'user:erased')
            OR note NOT IN ('erased', 'personal data erased')
        )
    RETURNING order_id
),

erased_refund AS (
    UPDATE refunds
    SET
        actor = CASE WHEN starts_with(actor, 'user:') THEN 'user:erased' ELSE actor END,
        reason = NULL
    WHERE order_id = any($1) AND (reason IS NOT NULL OR (starts_with(actor, 'user:') AND actor <> 'user:erased'))
),

erased_movement AS (
    UPDATE stock_movements
    SET actor = 'user:erased'
    WHERE order_id = any($1) AND starts_with(actor, 'user:') AND actor <> 'user:erased'
),

erased_shipping AS (
    DELETE FROM order_shipping
    WHERE order_id = any($1)
    RETURNING order_id
)

SELECT
    (SELECT count(*) FROM erased_order) AS orders,
    (SELECT count(*) FROM erased_payment) AS payments,
    (SELECT count(*) FROM erased_event) AS history,
    (SELECT count(*) FROM erased_shipping) AS shipping;
