-- settlement/store_shipping: store where an order goes, once; an order whose personal data were erased gets no address.
--
-- callers  service.shop.settlement._store_shipping
-- param    $1 order_id uuid
-- param    $2 name text null
-- param    $3 phone text null
-- param    $4 line1 text null
-- param    $5 line2 text null
-- param    $6 city text null
-- param    $7 state text null
-- param    $8 postal_code text null
-- param    $9 country text null
-- returns  none
-- locks    orders KEY SHARE; new order_shipping; to commit
-- waits    for nothing: transitions/lock_order has locked the order
-- index    orders_pkey, order_shipping_pkey
-- rows     0..1
-- guards   none
INSERT INTO order_shipping (order_id, name, phone, line1, line2, city, state, postal_code, country)
SELECT
    id,
    $2,
    $3,
    $4,
    $5,
    $6,
    $7,
    $8,
    $9
FROM orders
WHERE id = $1 AND erased_at IS NULL
ON CONFLICT (order_id) DO NOTHING;
