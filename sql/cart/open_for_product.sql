-- cart/open_for_product: lock an open cart for a line of this product, and set the cart's currency.
-- $4 owns the cart, unless nobody does.
-- Returns the most units that the line may have: the product's own limit, else $3.
--
-- callers  service.dev.seed._add_examples, service.shop.cart._lock_for_product
-- param    $1 cart_id uuid
-- param    $2 product_id bigint
-- param    $3 max_per_order integer
-- param    $4 user_id text null
-- returns  one or none; none = cart/explain_refusal says why
-- locks    carts NO KEY UPDATE; to commit
-- waits    on carts for edits, checkout and transitions of the same cart; 55P03 after lock_timeout -> busy
-- index    carts_pkey, products_active
-- rows     0..1
-- guards   none
UPDATE carts
SET
    currency = products.currency,
    updated_at = now()
FROM products
WHERE
    carts.id = $1
    AND carts.status = 'OPEN'
    AND (carts.user_id IS NULL OR carts.user_id = $4)
    AND products.id = $2
    AND products.active
    AND (carts.currency IS NULL OR carts.currency = products.currency)
RETURNING coalesce(products.max_per_order, $3) AS max_per_order;
