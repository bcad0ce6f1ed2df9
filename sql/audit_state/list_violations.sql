-- audit_state/list_violations: the known violations of a rule.
--
-- callers  service.shop.audit._check_each, service.shop.audit._check_rule, service.shop.audit.known_sessions,
--          service.shop.audit._check_whole
-- param    $1 rule text
-- returns  many by subject, detail; none = none is known
-- locks    none
-- waits    none
-- index    audit_violations_pkey
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    subject,
    detail
FROM audit_violations
WHERE rule = $1
ORDER BY
    subject,
    detail
LIMIT 1000;
