-- disputes/delete_dispute: delete a dispute that turned out to be of another application on the same Stripe account.
--
-- callers  service.shop.disputes.forget
-- param    $1 stripe_dispute_id text
-- returns  none
-- locks    disputes UPDATE; to commit
-- waits    on disputes for a transaction that records the same dispute; 55P03 after lock_timeout -> busy
-- index    disputes_pkey
-- rows     0..1
-- guards   none
DELETE FROM disputes
WHERE stripe_dispute_id = $1 AND order_id IS NULL;
