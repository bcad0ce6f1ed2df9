-- audit_log/add_entry: record what staff did, in the transaction that does it.
--
-- callers  service.shop.audit_log.add
-- param    $1 actor text
-- param    $2 action text
-- param    $3 subject text
-- param    $4 before jsonb null
-- param    $5 after jsonb null
-- param    $6 request_id text
-- returns  none
-- locks    new audit_log; to commit
-- waits    for nothing: the id is new
-- index    none
-- rows     1
-- guards   none
INSERT INTO audit_log (actor, action, subject, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6);
