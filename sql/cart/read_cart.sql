-- cart/read_cart: a cart with its lines, at today's prices or at those of its order, in one snapshot.
--
-- callers  service.shop.cart.read
-- param    $1 cart_id uuid
-- param    $2 user_id text null
-- param    $3 reads_all boolean
-- returns  many by product_id; one row with a null product = an empty cart; none = no such cart, or another's
-- locks    none
-- waits    none
-- index    carts_pkey, cart_items_pkey, products_pkey, orders_one_live_per_cart, order_items_pkey
-- rows     0..101 by service.shop.cart.MAX_LINES + 1, usually 3
-- guards   none
-- One row, so the order is looked up once. Joined directly, a plan may look it up once a line.
WITH cart AS MATERIALIZED (
    SELECT
        carts.id,
        carts.status,
        carts.currency,
        carts.reference,
        -- An abandoned cart may have been deleted.
        replacement.id AS replaced_by,
        orders.id AS order_id
    FROM carts
    LEFT JOIN carts AS replacement ON carts.replaced_by = replacement.id
    LEFT JOIN orders ON carts.id = orders.cart_id AND orders.status <> 'CANCELLED'
    WHERE carts.id = $1 AND (carts.user_id IS NULL OR carts.user_id = $2 OR $3)
)

SELECT
    cart.id,
    cart.status,
    cart.currency,
    cart.reference,
    cart.replaced_by,
    cart_items.product_id,
    cart_items.quantity,
    products.active,
    coalesce(order_items.name, products.name) AS name,
    coalesce(order_items.unit_price_minor, products.price_minor) AS unit_price_minor,
    products.stock >= cart_items.quantity AS available
FROM cart
LEFT JOIN cart_items ON cart.id = cart_items.cart_id
LEFT JOIN products ON cart_items.product_id = products.id
LEFT JOIN order_items ON cart.order_id = order_items.order_id AND products.id = order_items.product_id
ORDER BY cart_items.product_id;
