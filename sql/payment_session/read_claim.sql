-- payment_session/read_claim: for how many seconds, rounded up, another request still has the claim to a session.
-- Read after the claim was refused, to tell the client when to try again.
--
-- callers  service.shop.payment_session.in_progress
-- param    $1 order_id uuid
-- returns  one or none; none = nobody has the claim
-- locks    none
-- waits    none
-- index    payments_one_per_order
-- rows     0..1
-- guards   none
SELECT ceil(extract(EPOCH FROM claimed_until - now()))::integer AS seconds
FROM payments
WHERE order_id = $1 AND claimed_until > now();
