-- checkout/close_cart: close an open cart for its checkout.
-- A separate statement: after waiting for this lock, its snapshot is old. The next statement reads the lines.
-- It also locks the client, so that two of its checkouts cannot both pass its limits: checkout/reserve counts.
-- The products returned may be outdated: the caller chooses its limiters by them, and whether the hold is shorter.
-- A measurement older than a minute is ignored, so that a worker that has stopped does not shorten holds for ever.
--
-- callers  service.shop.checkout.reserve
-- param    $1 cart_id uuid
-- param    $2 client_key bigint null
-- param    $3 user_id text null
-- returns  one or none; none = no such cart, or it is checked out, or another's
-- locks    carts NO KEY UPDATE; advisory $2; to commit
-- waits    on carts, advisory for edits, checkout and transitions of the same cart, checkouts of the same client; 55P03
--          after lock_timeout -> busy
-- index    carts_pkey, cart_items_pkey, hold_pressure_pkey
-- rows     0..1
-- guards   none
UPDATE carts
SET
    status = 'CHECKED_OUT',
    ordered_at = now(),
    updated_at = now()
WHERE id = $1 AND status = 'OPEN' AND (user_id IS NULL OR user_id = $3)
RETURNING
    currency,
    user_id,
    reference,
    array(
        SELECT product_id
        FROM cart_items
        WHERE cart_id = carts.id
        ORDER BY product_id
    ) AS product_ids,
    EXISTS (
        SELECT
        FROM hold_pressure
        WHERE
            hold_pressure.id
            AND hold_pressure.measured_at > now() - interval '1 minute'
            AND hold_pressure.product_ids && array(SELECT product_id FROM cart_items WHERE cart_id = carts.id)
    ) AS under_pressure,
    -- Without a key, no lock.
    pg_advisory_xact_lock($2) IS NOT NULL AS client_locked;
