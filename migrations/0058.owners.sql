-- Carts and orders may belong to a user of the identity provider. Statements set an owner only where there is none;
-- afterwards only `erase` changes it, to 'erased', which no user is. Readers do not see it: it names a person.
--
-- depends: 0056.audit_log 0057.actors_valid
-- phase: expand
-- lock: ACCESS EXCLUSIVE on carts and orders, briefly, no row is read
-- undo: drops the owners, so that each id is enough to read and change a cart or order

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE carts ADD COLUMN user_id text;
ALTER TABLE orders ADD COLUMN user_id text;
ALTER TABLE orders ADD COLUMN claimed boolean NOT NULL DEFAULT false;
-- No control characters, no line breaks, and none that reverse the text around them.
ALTER TABLE carts ADD CONSTRAINT carts_user_id_form CHECK (
    char_length(user_id) BETWEEN 1 AND 255
    AND user_id COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_user_id_form CHECK (
    char_length(user_id) BETWEEN 1 AND 255
    AND user_id COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE orders ADD CONSTRAINT orders_claimed_has_owner CHECK (user_id IS NOT NULL OR NOT claimed) NOT VALID;
-- As of orders.email: statistics would keep values that were erased.
ALTER TABLE carts ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE orders ALTER COLUMN user_id SET STATISTICS 0;
COMMENT ON COLUMN carts.user_id IS 'The owner: the sub of an access token, or ''erased''. Null: its id is enough.';
COMMENT ON COLUMN orders.user_id IS 'The owner: the sub of an access token, or ''erased''. Null: its id is enough.';
COMMENT ON COLUMN orders.claimed IS 'Whether its owner claimed it. Otherwise the owner placed it, or there is none.';

-- Blocks, as in 0007.roles. The API and the worker both settle late payments, which may need a new cart.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT INSERT (user_id), UPDATE (user_id) ON carts TO commerce_app;
        GRANT INSERT (user_id), UPDATE (user_id, claimed) ON orders TO commerce_app;
    END IF;
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT INSERT (user_id) ON carts TO commerce_worker;
    END IF;
    IF to_regrole('commerce_eraser') IS NOT NULL THEN
        GRANT SELECT (id, user_id), UPDATE (user_id) ON carts TO commerce_eraser;
        GRANT SELECT (cart_id, user_id), UPDATE (user_id) ON orders TO commerce_eraser;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        REVOKE SELECT ON carts FROM commerce_readonly;
        GRANT SELECT (id, status, currency, created_at, updated_at, ordered_at, replaced_by) ON carts
        TO commerce_readonly;
        GRANT SELECT (claimed) ON orders TO commerce_readonly;
    END IF;
END
$$;
