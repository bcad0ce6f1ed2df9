-- audit/cart_lines_have_products: every cart line names a product that exists.
-- No foreign key enforces it: its lock on the product would let checkouts deadlock (checkout/reserve).
--
-- callers  service.shop.audit.audit
-- returns  many by cart_id, product_id; none = all is well
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    'cart ' || cart_id AS subject,
    'product ' || product_id || ' does not exist' AS detail
FROM cart_items
WHERE NOT EXISTS (SELECT FROM products WHERE products.id = cart_items.product_id)
ORDER BY cart_id, product_id
LIMIT 1000;
