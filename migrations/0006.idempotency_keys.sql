-- Stored responses of requests with an Idempotency-Key.
--
-- depends: 0003.orders
-- phase: expand
-- lock: SHARE ROW EXCLUSIVE on orders for the foreign key, briefly
-- undo: drops the keys, so that a repeated request takes effect again

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE idempotency_keys (
    -- SHA-256 of method, path, authorization and key: the scope of the key.
    id bytea NOT NULL,
    -- SHA-256 of the body, because the same key with another body is refused.
    request_digest bytea NOT NULL,
    -- The order of a checkout. Its response is stored later, once the session exists; a retry continues this order.
    order_id uuid,
    status integer,
    location text,
    answer bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (id),
    CONSTRAINT idempotency_keys_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT idempotency_keys_id_form CHECK (octet_length(id) = 32),
    CONSTRAINT idempotency_keys_request_digest_form CHECK (octet_length(request_digest) = 32),
    CONSTRAINT idempotency_keys_answered_whole CHECK ((status IS NULL) = (answer IS NULL)),
    CONSTRAINT idempotency_keys_status_success CHECK (status BETWEEN 200 AND 299)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
