-- audit_state/fold_balances: add these movements to the balances of their products, and move the position with them.
-- Nothing is added if another process has moved the position.
--
-- callers  service.shop.audit._fold_balances
-- param    $1 after_id bigint
-- param    $2 to_id bigint
-- returns  one or none; none = another process has moved the position
-- locks    audit_positions NO KEY UPDATE; audit_balances NO KEY UPDATE in no order; new audit_balances; to commit
-- waits    on audit_positions, audit_balances for another audit; 55P03 after lock_timeout -> busy
-- index    audit_positions_pkey, stock_movements_position, audit_balances_pkey
-- rows     0..1
-- guards   none
WITH step AS (
    UPDATE audit_positions
    SET position = $2
    WHERE rule = 'audit/stock_matches_ledger' AND source = 'balances' AND position = $1
    RETURNING position
),

folded AS (
    INSERT INTO audit_balances (product_id, units)
    SELECT
        product_id,
        sum(delta)
    FROM stock_movements
    WHERE id > $1 AND id <= $2 AND EXISTS (SELECT FROM step)
    GROUP BY product_id
    ORDER BY product_id
    ON CONFLICT (product_id) DO UPDATE
        SET units = audit_balances.units + excluded.units
    RETURNING product_id
)

SELECT position
FROM step;
