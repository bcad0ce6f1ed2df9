-- audit_state/list_violations: a page of the known violations of a rule.
--
-- callers  service.shop.audit._list_known
-- param    $1 rule text
-- param    $2 after_subject text
-- param    $3 after_detail text
-- returns  many by subject, detail; none = no more is known
-- locks    none
-- waits    none
-- index    audit_violations_pkey
-- rows     0..1000 by LIMIT, usually 0
-- guards   none
SELECT
    subject,
    detail
FROM audit_violations
WHERE rule = $1 AND (subject, detail) > ($2, $3)
ORDER BY
    subject,
    detail
LIMIT 1000;
