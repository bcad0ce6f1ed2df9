-- Orders by the hash of their e-mail address, and those whose hash is missing.
-- The hashes of old rows are filled in, by batches. This SQL makes the same hash as the code for ASCII addresses only.
-- The hashes of their clients' addresses are removed, unless they are pending.
-- `erase` compares the rest itself: other addresses, rows that were locked, and rows that old code still writes.
--
-- depends: 0045.erasure
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on orders during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index; each `erase` by e-mail address then reads all orders

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
SET statement_timeout = '1h';

ALTER TABLE orders VALIDATE CONSTRAINT orders_email_digest_form;
ALTER TABLE orders VALIDATE CONSTRAINT orders_erased_has_no_email;

-- The line break after DO: migrations/README.md runs the blocks that begin with `DO $` again, in one transaction.
DO
$$
DECLARE
    first_number bigint := 0;
    last_number bigint;
BEGIN
    LOOP
        SELECT max(number) INTO last_number
        FROM (SELECT number FROM orders WHERE number >= first_number ORDER BY number LIMIT 1000) AS batch;
        EXIT WHEN last_number IS NULL;
        WITH batch AS MATERIALIZED (
            SELECT id
            FROM orders
            WHERE
                number BETWEEN first_number AND last_number
                AND (
                    (email_digest IS NULL AND email ~ '^[!-~]+$')
                    OR (client IS NOT NULL AND status <> 'PENDING_PAYMENT')
                )
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE orders
        SET
            email_digest = CASE
                WHEN email ~ '^[!-~]+$' THEN sha256(convert_to(lower(email COLLATE "C"), 'UTF8'))
                ELSE email_digest
            END,
            client = CASE WHEN status = 'PENDING_PAYMENT' THEN client END
        FROM batch
        WHERE orders.id = batch.id;
        COMMIT;
        first_number := last_number + 1;
    END LOOP;
END
$$;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS orders_by_email_digest;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY orders_by_email_digest ON orders (email_digest) WHERE email IS NOT NULL;
