-- payment_session/claim_session: claim the creation of an order's Stripe session for a while.
-- A claim ends by itself when its process has died. Two requests may then have a claim: each asks Stripe with the key
-- of its attempt. What it concludes counts for that attempt only.
--
-- callers  service.shop.payment_session.claim_session
-- param    $1 order_id uuid
-- param    $2 claim_seconds double precision
-- returns  one or none; none = another request has the claim, or there is no session to create
-- locks    payments NO KEY UPDATE; to commit
-- waits    on payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    payments_one_per_order
-- rows     0..1
-- guards   none
UPDATE payments
SET claimed_until = now() + make_interval(secs => $2)
WHERE
    order_id = $1
    AND status = 'INITIATED'
    AND stripe_session_id IS NULL
    AND (claimed_until IS NULL OR claimed_until < now())
RETURNING
    attempt,
    session_parameters,
    created_at;
