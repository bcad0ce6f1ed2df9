-- audit_state/record_pass: record that a rule has checked everything, or everything that had changed by a time.
--
-- callers  service.shop.audit.record_pass
-- param    $1 rule text
-- param    $2 changes_at timestamptz
-- param    $3 is_full boolean
-- returns  none
-- locks    audit_passes NO KEY UPDATE; new audit_passes; to commit
-- waits    on audit_passes for another audit; 55P03 after lock_timeout -> busy
-- index    audit_passes_pkey
-- rows     1
-- guards   none
INSERT INTO audit_passes (rule, changes_at, full_at)
VALUES ($1, $2::timestamptz, CASE WHEN $3 THEN $2 END)
ON CONFLICT (rule) DO UPDATE
    SET
        changes_at = greatest(audit_passes.changes_at, excluded.changes_at),
        full_at = coalesce(excluded.full_at, audit_passes.full_at);
