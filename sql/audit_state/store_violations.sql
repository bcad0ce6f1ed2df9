-- audit_state/store_violations: record what is wrong with these subjects now, and forget what no longer is.
-- $2 is null for a rule that was checked whole. What stays keeps its `since`.
--
-- callers  service.shop.audit.store
-- param    $1 rule text
-- param    $2 checked text[] null
-- param    $3 subjects text[]
-- param    $4 details text[]
-- returns  none
-- locks    audit_violations UPDATE in no order; new audit_violations; to commit
-- waits    for nothing: audit_state/lock_rule has locked the rule
-- index    audit_violations_pkey
-- rows     0..n, usually 0
-- guards   none
WITH violation AS MATERIALIZED (
    SELECT DISTINCT
        subject,
        left(detail, 500) AS detail
    FROM unnest($3::text[], $4::text[]) AS violations (subject, detail)
),

gone AS (
    DELETE FROM audit_violations
    WHERE
        rule = $1
        AND ($2::text[] IS NULL OR subject = any($2::text[]))
        AND NOT EXISTS (
            SELECT FROM violation
            WHERE violation.subject = audit_violations.subject AND violation.detail = audit_violations.detail
        )
)

INSERT INTO audit_violations (rule, subject, detail)
SELECT
    $1,
    subject,
    detail
FROM violation
ON CONFLICT (rule, subject, detail) DO NOTHING;
