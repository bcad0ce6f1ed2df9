-- audit/cart_lines_have_products: every line of these carts names a product that exists.
-- No foreign key enforces it: its lock on the product would let checkouts deadlock (checkout/reserve).
--
-- callers  service.shop.audit.export_results, service.shop.audit._rules, service.shop.audit._stripe_rule
-- param    $1 cart_ids uuid[]
-- returns  many by subject; none = all is well
-- locks    none
-- waits    none
-- index    cart_items_pkey, products_pkey
-- rows     0..n, usually 0
-- guards   none
SELECT
    'cart ' || cart_items.cart_id AS subject,
    'product ' || cart_items.product_id || ' does not exist' AS detail
FROM cart_items
LEFT JOIN products ON cart_items.product_id = products.id
WHERE cart_items.cart_id = any($1) AND products.id IS NULL
ORDER BY subject;
