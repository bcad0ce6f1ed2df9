-- checkout/reserve: check every line, take the stock and create the order, or change nothing.
-- One statement, because round trips under the lock of a hot product limit its sales. The UPDATE is the only lock of a
-- product: a row that one statement locks and then updates can deadlock beside a foreign key's KEY SHARE.
-- The UPDATE follows no order, so checkout/lock_products has to lock the products of more than one line before.
--
-- callers  service.shop.checkout.reserve
-- param    $1 order_id uuid
-- param    $2 cart_id uuid
-- param    $3 payment_id uuid
-- param    $4 expected_total_minor bigint null
-- param    $5 hold_seconds integer
-- param    $6 session_seconds integer
-- param    $7 claim_seconds double precision
-- param    $8 session_template jsonb
-- param    $9 cause text
-- param    $10 client bytea null
-- param    $11 currency text
-- param    $12 minimum_minor bigint
-- param    $13 maximum_minor bigint
-- param    $14 line_count integer
-- param    $15 client_network bytea null
-- param    $16 max_pending integer
-- param    $17 max_per_order integer
-- param    $18 actor text
-- param    $19 user_id text null
-- param    $20 reference text null
-- returns  one or none; none = checkout/explain_refusal says why
-- locks    products NO KEY UPDATE; carts KEY SHARE; new orders, stock_movements, order_items, payments,
--          order_events, event_deliveries; to commit
-- waits    on products for checkouts, edits and stock moves of the same products; 55P03 after lock_timeout -> busy;
--          checkout/close_cart has locked the cart
-- index    cart_items_pkey, products_pkey, orders_pending_by_client, order_items_pkey, orders_pending_by_network,
--          event_endpoints_active
-- rows     0..1
-- guards   orders_one_live_per_cart -> cart_not_open, never orders_total_range -> amount_out_of_range, never
--          products_stock_not_negative -> insufficient_stock, never stock_movements_once -> busy
WITH client_order AS MATERIALIZED (
    -- The client is locked, so this statement sees all its pending orders.
    SELECT id
    FROM orders
    WHERE client = $10 AND status = 'PENDING_PAYMENT'
),

unpaid AS MATERIALIZED (
    SELECT
        order_items.product_id,
        sum(order_items.quantity) AS units
    FROM client_order
    INNER JOIN order_items ON client_order.id = order_items.order_id
    GROUP BY order_items.product_id
),

line AS MATERIALIZED (
    SELECT
        products.id AS product_id,
        products.name,
        products.price_minor,
        products.currency,
        products.active,
        products.stock,
        products.max_per_order,
        cart_items.quantity,
        coalesce(unpaid.units, 0) AS unpaid_units
    FROM cart_items
    INNER JOIN products ON cart_items.product_id = products.id
    LEFT JOIN unpaid ON products.id = unpaid.product_id
    WHERE cart_items.cart_id = $2
),

total AS MATERIALIZED (
    SELECT
        sum(price_minor * quantity)::bigint AS total_minor,
        min(currency) AS currency,
        jsonb_agg(jsonb_build_object(
            'quantity', quantity,
            'price_data', jsonb_build_object(
                'currency', lower(currency),
                'unit_amount', price_minor,
                'product_data', jsonb_build_object('name', name)
            )
        ) ORDER BY product_id) AS line_items
    FROM line
    HAVING
        -- The caller has locked the products of so many lines. It needs no lock for one line.
        count(*) = $14::integer
        AND bool_and(active AND stock >= quantity AND quantity <= coalesce(max_per_order, $17))
        AND bool_and(currency = $11)
        AND sum(price_minor * quantity) BETWEEN $12::bigint AND $13::bigint
        AND ($4::bigint IS NULL OR sum(price_minor * quantity) = $4)
        AND ($10::bytea IS NULL OR (SELECT count(*) FROM client_order) < $16::integer)
        AND (
            $15::bytea IS NULL
            OR (
                SELECT count(*)
                FROM orders
                WHERE client_network = $15 AND status = 'PENDING_PAYMENT'
            ) < 10 * $16::integer
        )
),

reserved AS (
    UPDATE products
    SET
        stock = products.stock - line.quantity,
        updated_at = now()
    FROM line, total
    -- What was read and checked is compared again, because this UPDATE may have waited for a newer version.
    WHERE
        products.id = line.product_id
        AND products.stock >= line.quantity
        AND line.quantity <= coalesce(products.max_per_order, $17)
        -- From the client's second pending order on, its units stay within half of these and the units in stock.
        AND (
            NOT EXISTS (SELECT FROM client_order)
            OR 2 * (line.unpaid_units + line.quantity) <= line.unpaid_units + products.stock
        )
        AND (products.name, products.price_minor, products.currency, products.active)
        = (line.name, line.price_minor, line.currency, line.active)
    RETURNING
        products.id,
        products.stock
),

reserved_total AS MATERIALIZED (
    SELECT
        total_minor,
        currency,
        line_items
    FROM total
    WHERE (SELECT count(*) FROM reserved) = $14::integer
),

new_order AS (
    INSERT INTO orders (
        id, cart_id, user_id, client, client_network, total_minor, currency, reference, expires_at, next_attempt_at
    )
    SELECT
        $1,
        $2,
        $19,
        $10,
        $15,
        total_minor,
        currency,
        $20,
        now() + make_interval(secs => $5::integer),
        now() + make_interval(secs => $5::integer)
    FROM reserved_total
    RETURNING
        id,
        number,
        total_minor,
        currency,
        gen_random_uuid() AS event_id
),

movement AS (
    INSERT INTO stock_movements (product_id, delta, reason, order_id, hold, actor)
    SELECT
        line.product_id,
        -line.quantity,
        'hold',
        $1,
        1,
        $18
    FROM line, reserved_total
),

item AS (
    INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
    SELECT
        $1,
        line.product_id,
        line.name,
        line.quantity,
        line.price_minor
    FROM line, reserved_total
),

payment AS (
    INSERT INTO payments (
        id, order_id, order_number, amount_minor, currency, session_parameters, session_expires_at, claimed_until
    )
    SELECT
        $3,
        $1,
        new_order.number,
        reserved_total.total_minor,
        reserved_total.currency,
        $8 || jsonb_build_object(
            -- Rounded down: rounded up, the longest session allowed would exceed Stripe's limit.
            'expires_at', floor(extract(EPOCH FROM now()))::bigint + $6::integer,
            'line_items', line_items
        ),
        now() + make_interval(secs => $6::integer),
        now() + make_interval(secs => $7)
    FROM new_order, reserved_total
    RETURNING
        attempt,
        session_parameters,
        created_at
),

history AS (
    INSERT INTO order_events (order_id, to_status, cause, actor)
    SELECT
        id,
        'PENDING_PAYMENT',
        $9,
        $18
    FROM new_order
),

event AS (
    INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
    SELECT
        event_endpoints.id,
        new_order.event_id,
        'order.placed',
        'order:' || new_order.id,
        jsonb_build_object(
            'order_id', new_order.id,
            'number', new_order.number,
            'status', 'PENDING_PAYMENT',
            'total_minor', new_order.total_minor,
            'currency', new_order.currency
        )
    FROM new_order
    INNER JOIN event_endpoints ON event_endpoints.active AND 'order.placed' = any(event_endpoints.types)
)

SELECT
    payment.attempt,
    payment.session_parameters,
    payment.created_at,
    (SELECT array_agg(id) FILTER (WHERE stock = 0) FROM reserved) AS sold_out
FROM payment;
