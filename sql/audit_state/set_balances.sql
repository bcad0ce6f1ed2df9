-- audit_state/set_balances: set the balances of these products, where they differ, at the position of all balances.
-- Nothing is set if another process has moved that position.
--
-- callers  service.shop.audit._set_balances
-- param    $1 product_ids bigint[]
-- param    $2 units bigint[]
-- param    $3 position bigint
-- returns  none
-- locks    audit_balances NO KEY UPDATE in no order; new audit_balances; to commit
-- waits    on audit_balances for another audit; 55P03 after lock_timeout -> busy
-- index    audit_positions_pkey, audit_balances_pkey
-- rows     0..200 by service.shop.audit.BATCH, usually 0
-- guards   none
INSERT INTO audit_balances (product_id, units)
SELECT
    ledger.product_id,
    ledger.units
FROM unnest($1::bigint[], $2::bigint[]) AS ledger (product_id, units)
LEFT JOIN audit_balances ON ledger.product_id = audit_balances.product_id
WHERE
    coalesce(audit_balances.units, 0) <> ledger.units
    AND (
        SELECT position FROM audit_positions WHERE rule = 'audit/stock_matches_ledger' AND source = 'balances'
    ) = $3
ORDER BY ledger.product_id
ON CONFLICT (product_id) DO UPDATE
    SET units = excluded.units;
