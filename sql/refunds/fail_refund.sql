-- refunds/fail_refund: record that Stripe refused a refund.
--
-- callers  service.shop.refunds._record
-- param    $1 refund_id uuid
-- param    $2 failure_reason text
-- returns  none
-- locks    refunds NO KEY UPDATE; to commit
-- waits    on refunds for the sweep that claims it; 55P03 after lock_timeout -> busy; transitions/lock_order has locked
--          the order
-- index    refunds_pkey
-- rows     0..1
-- guards   none
UPDATE refunds
SET
    status = 'FAILED',
    failure_reason = $2,
    next_attempt_at = NULL,
    updated_at = now()
WHERE id = $1 AND status = 'REQUESTED';
