-- Loses the grants and no data; the service stops under these roles.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Dynamic, because a statement that names a missing role fails.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT rolname FROM pg_roles WHERE rolname IN ('commerce_app', 'commerce_worker', 'commerce_readonly')
    LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', name);
        EXECUTE format('REVOKE ALL ON SCHEMA public FROM %I', name);
    END LOOP;
END
$$;
