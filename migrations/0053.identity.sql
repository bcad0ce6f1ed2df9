-- Service keys, and people whose access tokens are refused.
--
-- depends: 0052.disputes_again
-- phase: expand
-- lock: none
-- undo: drops all service keys and revocations: revoked access tokens are accepted until they expire

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY,
    -- Histories name the key by it, so it is never used twice.
    name text NOT NULL,
    prefix text NOT NULL,
    -- SHA-256 without a salt is enough: a key has 256 random bits.
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_name_unique UNIQUE (name),
    CONSTRAINT api_keys_digest_unique UNIQUE (digest),
    CONSTRAINT api_keys_name_form CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    CONSTRAINT api_keys_prefix_length CHECK (char_length(prefix) BETWEEN 1 AND 20),
    CONSTRAINT api_keys_digest_length CHECK (octet_length(digest) = 32),
    CONSTRAINT api_keys_scopes_known CHECK (
        cardinality(scopes) > 0
        AND scopes <@ ARRAY[
            'catalog:read', 'catalog:write', 'stock:write', 'orders:read', 'orders:cancel', 'orders:refund',
            'events:write', 'audit:read', 'metrics:read', 'auth:revoke', 'storefront'
        ]
    ),
    CONSTRAINT api_keys_created_by_length CHECK (char_length(created_by) BETWEEN 1 AND 255),
    CONSTRAINT api_keys_expires_after_creation CHECK (expires_at > created_at)
);
COMMENT ON TABLE api_keys IS 'Service keys of other systems. The keys themselves are not stored.';
COMMENT ON COLUMN api_keys.id IS 'The order in which keys were added.';
COMMENT ON COLUMN api_keys.name IS 'Which system uses it. Histories say key:<name>.';
COMMENT ON COLUMN api_keys.prefix IS 'The first characters of the key, by which people recognise it.';
COMMENT ON COLUMN api_keys.digest IS 'SHA-256 of the key.';
COMMENT ON COLUMN api_keys.scopes IS 'What the key may do.';
COMMENT ON COLUMN api_keys.created_at IS 'When it was added.';
COMMENT ON COLUMN api_keys.created_by IS 'Who added it: the login on the machine that ran the command.';
COMMENT ON COLUMN api_keys.expires_at IS 'From then on it is refused.';
COMMENT ON COLUMN api_keys.revoked_at IS 'When people revoked it. Null while it is valid.';

CREATE TABLE token_revocations (
    subject text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT token_revocations_pkey PRIMARY KEY (subject),
    CONSTRAINT token_revocations_subject_length CHECK (char_length(subject) BETWEEN 1 AND 255)
);
-- Each process reads the newest every few seconds.
CREATE INDEX token_revocations_by_time ON token_revocations (revoked_at);
COMMENT ON TABLE token_revocations IS 'People whose access tokens are refused.';
COMMENT ON COLUMN token_revocations.subject IS 'Who, by the sub of their tokens.';
COMMENT ON COLUMN token_revocations.revoked_at IS 'Tokens that were issued until then are refused.';

-- Blocks, as in 0007.roles. Only the owner adds and revokes keys: somebody who takes over the API cannot make one.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT SELECT (name, digest, scopes, expires_at, revoked_at) ON api_keys TO commerce_app;
        GRANT SELECT, INSERT (subject), UPDATE (revoked_at) ON token_revocations TO commerce_app;
    END IF;
    -- For its metrics.
    IF to_regrole('commerce_worker') IS NOT NULL THEN
        GRANT SELECT (name, digest, scopes, expires_at, revoked_at) ON api_keys TO commerce_worker;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON api_keys, token_revocations TO commerce_readonly;
    END IF;
END
$$;
