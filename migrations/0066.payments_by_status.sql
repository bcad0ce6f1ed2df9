-- Payments of one status by the order's number, without the two statuses of a usual purchase, which costs nothing here.
-- The numbers of old rows are filled in, by batches. The next release fills those that old code still leaves out, and
-- refuses null; until then the list omits them.
--
-- depends: 0065.payment_order_numbers
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments during the build: VACUUM and DDL wait, reads and writes do not; before it,
--       the rows of 100 payments at a time, while they are filled; those that others have locked are filled later
-- undo: drops the index; each list of payments of one status then reads all payments

SET lock_timeout = '2s';
SET statement_timeout = '1h';

-- The line break after DO: migrations/README.md runs the blocks that begin with `DO $` again, in one transaction.
DO
$$
DECLARE
    first_number bigint := 0;
    last_number bigint;
BEGIN
    LOOP
        SELECT max(number) INTO last_number
        FROM (SELECT number FROM orders WHERE number >= first_number ORDER BY number LIMIT 100) AS batch;
        EXIT WHEN last_number IS NULL;
        LOOP
            WITH batch AS MATERIALIZED (
                SELECT
                    payments.order_id,
                    orders.number
                FROM payments
                INNER JOIN orders ON payments.order_id = orders.id
                WHERE orders.number BETWEEN first_number AND last_number AND payments.order_number IS NULL
                FOR NO KEY UPDATE OF payments SKIP LOCKED
            )
            UPDATE payments
            SET order_number = batch.number
            FROM batch
            WHERE payments.order_id = batch.order_id;
            COMMIT;
            EXIT WHEN NOT EXISTS (
                SELECT
                FROM payments
                INNER JOIN orders ON payments.order_id = orders.id
                WHERE orders.number BETWEEN first_number AND last_number AND payments.order_number IS NULL
            );
            -- Somebody has a row of the batch locked.
            PERFORM pg_sleep(0.1);
        END LOOP;
        first_number := last_number + 1;
    END LOOP;
END
$$;

-- The build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS payments_by_status;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY payments_by_status ON payments (status, order_number)
WHERE status NOT IN ('INITIATED', 'SUCCEEDED');
