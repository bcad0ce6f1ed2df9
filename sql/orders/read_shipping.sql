-- orders/read_shipping: where an order goes, as the customer told Stripe.
--
-- callers  service.shop.orders._read_shipping
-- param    $1 order_id uuid
-- returns  one or none; none = no address was collected, or it was erased
-- locks    none
-- waits    none
-- index    order_shipping_pkey
-- rows     0..1
-- guards   none
SELECT
    name,
    phone,
    line1,
    line2,
    city,
    state,
    postal_code,
    country
FROM order_shipping
WHERE order_id = $1;
