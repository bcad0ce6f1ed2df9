-- audit/cart_lines_have_products: every line of a cart names a product that exists.
-- No foreign key says so: its lock on the product would let checkouts deadlock (checkout/reserve).
--
-- callers  service.shop.audit.audit
-- returns  many by cart_id, product_id; none = all is well
-- locks    none
-- waits    none
-- index    none; reads the tables whole
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    'cart ' || cart_id AS subject,
    'product ' || product_id || ' does not exist' AS detail
FROM cart_items
WHERE NOT EXISTS (SELECT FROM products WHERE products.id = cart_items.product_id)
ORDER BY cart_id, product_id
LIMIT 1000;
