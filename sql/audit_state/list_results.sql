-- audit_state/list_results: for each of these rules the number of known violations, and when it was checked.
--
-- callers  service.shop.audit.export_results
-- param    $1 rules text[]
-- returns  many by rule; none = there are no rules
-- locks    none
-- waits    none
-- index    none; reads whole tables
-- rows     0..n, usually 10
-- guards   none
SELECT
    named.rule,
    audit_passes.changes_at,
    audit_passes.full_at,
    (SELECT count(*) FROM audit_violations WHERE audit_violations.rule = named.rule) AS violations
FROM unnest($1::text[]) AS named (rule)
LEFT JOIN audit_passes ON named.rule = audit_passes.rule
ORDER BY named.rule;
