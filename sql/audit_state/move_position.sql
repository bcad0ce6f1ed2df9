-- audit_state/move_position: record how far a rule has read a source, unless another process has moved the position.
--
-- callers  service.shop.audit._move_position
-- param    $1 rule text
-- param    $2 source text
-- param    $3 from_position bigint
-- param    $4 to_position bigint
-- returns  none
-- locks    audit_positions NO KEY UPDATE; new audit_positions; to commit
-- waits    on audit_positions for another audit; 55P03 after lock_timeout -> busy
-- index    audit_positions_pkey
-- rows     0..1
-- guards   none
INSERT INTO audit_positions (rule, source, position)
VALUES ($1, $2, $4)
ON CONFLICT (rule, source) DO UPDATE
    SET position = excluded.position
    WHERE audit_positions.position = $3;
