-- payment_session/start_attempt: start the next attempt, once Stripe has shown that no session exists.
--
-- callers  service.shop.payment_session.next_attempt
-- param    $1 order_id uuid
-- param    $2 attempt integer
-- param    $3 session_seconds integer
-- param    $4 claim_seconds double precision
-- returns  one or none; none = the attempt or the payment has changed since
-- locks    payments NO KEY UPDATE; to commit
-- waits    on payments for transitions of the order; 55P03 after lock_timeout -> busy
-- index    payments_one_per_order
-- rows     0..1
-- guards   none
UPDATE payments
SET
    attempt = attempt + 1,
    session_expires_at = now() + make_interval(secs => $3::integer),
    session_parameters = session_parameters
    || jsonb_build_object('expires_at', floor(extract(EPOCH FROM now()))::bigint + $3::integer),
    claimed_until = now() + make_interval(secs => $4)
WHERE
    order_id = $1
    AND attempt = $2
    AND status = 'INITIATED'
    AND stripe_session_id IS NULL
RETURNING
    attempt,
    session_parameters,
    created_at;
