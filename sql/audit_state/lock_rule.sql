-- audit_state/lock_rule: let one process at a time store violations of a rule.
--
-- callers  service.shop.audit.store
-- param    $1 rule text
-- returns  none
-- locks    audit_passes NO KEY UPDATE; new audit_passes; to commit
-- waits    on audit_passes for another audit; 55P03 after lock_timeout -> busy
-- index    audit_passes_pkey
-- rows     1
-- guards   none
INSERT INTO audit_passes (rule)
VALUES ($1)
ON CONFLICT (rule) DO UPDATE
    SET changes_at = audit_passes.changes_at;
