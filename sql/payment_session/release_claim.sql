-- payment_session/release_claim: end a claim early, so that the next request need not wait for its end.
--
-- callers  service.shop.payment_session.release_claim
-- param    $1 order_id uuid
-- returns  none
-- locks    payments NO KEY UPDATE; to commit
-- waits    on payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    payments_one_per_order
-- rows     0..1
-- guards   none
UPDATE payments
SET claimed_until = NULL
WHERE order_id = $1 AND stripe_session_id IS NULL;
