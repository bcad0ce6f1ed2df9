-- The reserve transaction in eight round trips, for pgbench; `references.in_eight` is the same through asyncpg.
\set cart :first + :client_id + :clients * :turn
\set turn :turn + 1
\set number random(1, 9000000000000000000)
BEGIN;
SELECT
    products.id AS product, products.name AS name, products.price_minor AS price, products.currency AS currency,
    cart_items.quantity AS quantity
FROM cart_items JOIN products ON products.id = cart_items.product_id
WHERE
    cart_items.cart_id
    = (lpad(to_hex(mod(:cart::bigint * 2654435761, 4294967296)), 8, '0') || lpad(to_hex(:cart::bigint), 24, '0'))::uuid
    AND products.active
ORDER BY products.id
FOR NO KEY UPDATE OF products \gset
WITH new_order AS (
    INSERT INTO orders (id, cart_id, total_minor, currency, expires_at, next_attempt_at)
    VALUES (
        lpad(to_hex(:number::bigint), 32, '0')::uuid,
        (lpad(to_hex(mod(:cart::bigint * 2654435761, 4294967296)), 8, '0') || lpad(to_hex(:cart::bigint), 24, '0'))::uuid,
        :price::bigint * :quantity::integer, :currency, now() + interval '30 minutes', now() + interval '30 minutes'
    )
    RETURNING id
)
INSERT INTO order_events (order_id, to_status, cause) SELECT id, 'PENDING_PAYMENT', 'bench' FROM new_order;
INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
VALUES (lpad(to_hex(:number::bigint), 32, '0')::uuid, :product, :name, :quantity, :price);
UPDATE products SET stock = stock - :quantity::integer, updated_at = now() WHERE id = :product;
INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
VALUES (:product, -:quantity::integer, 'hold', lpad(to_hex(:number::bigint), 32, '0')::uuid, 1);
INSERT INTO payments (id, order_id, amount_minor, currency, session_parameters, session_expires_at, claimed_until)
VALUES (
    gen_random_uuid(), lpad(to_hex(:number::bigint), 32, '0')::uuid, :price::bigint * :quantity::integer, :currency,
    '{"mode": "payment", "success_url": "http://localhost/payments/success", "metadata": {"order_id": "bench"}}',
    now() + interval '35 minutes', now() + interval '45 seconds'
);
COMMIT;
