-- checkout/explain_refusal: a cart's lines with stock, prices and limits, to explain a refused checkout, without locks.
--
-- callers  service.shop.checkout.explain_refusal
-- param    $1 cart_id uuid
-- param    $2 client bytea null
-- param    $3 client_network bytea null
-- returns  many by id; none = the cart is empty
-- locks    none
-- waits    none
-- index    cart_items_pkey, products_pkey, orders_pending_by_client, order_items_pkey, orders_pending_by_network
-- rows     0..100 by service.shop.cart.MAX_LINES, usually 3
-- guards   none
WITH client_order AS MATERIALIZED (
    SELECT id
    FROM orders
    WHERE client = $2 AND status = 'PENDING_PAYMENT'
),

unpaid AS MATERIALIZED (
    SELECT
        order_items.product_id,
        sum(order_items.quantity)::integer AS units
    FROM client_order
    INNER JOIN order_items ON client_order.id = order_items.order_id
    GROUP BY order_items.product_id
)

SELECT
    products.id AS product_id,
    cart_items.quantity AS requested,
    products.stock AS available,
    products.active,
    products.price_minor,
    products.currency,
    products.max_per_order,
    coalesce(unpaid.units, 0) AS client_units,
    (SELECT count(*) FROM client_order) AS client_pending,
    (
        SELECT count(*)
        FROM orders
        WHERE client_network = $3 AND status = 'PENDING_PAYMENT'
    ) AS network_pending
FROM cart_items
INNER JOIN products ON cart_items.product_id = products.id
LEFT JOIN unpaid ON products.id = unpaid.product_id
WHERE cart_items.cart_id = $1
ORDER BY products.id;
