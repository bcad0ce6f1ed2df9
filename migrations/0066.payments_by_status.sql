-- Payments of one status by the order's number, without the two statuses of a usual purchase, which costs nothing here.
-- The numbers of old rows are filled in, by batches. The next release fills those that old code still leaves out, and
-- refuses null; until then the list omits them.
--
-- depends: 0065.payment_order_numbers
-- transactional: false
-- phase: expand
-- lock: SHARE UPDATE EXCLUSIVE on payments during the build: VACUUM and DDL wait, reads and writes do not
-- undo: drops the index and empties the column; each list of payments of one status then reads all payments

-- Long limits, because the build waits for every older transaction. Its locks stop no reads or writes.
SET lock_timeout = '10min';
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
        FROM (SELECT number FROM orders WHERE number >= first_number ORDER BY number LIMIT 1000) AS batch;
        EXIT WHEN last_number IS NULL;
        UPDATE payments
        SET order_number = orders.number
        FROM orders
        WHERE
            orders.number BETWEEN first_number AND last_number
            AND payments.order_id = orders.id
            AND payments.order_number IS NULL;
        COMMIT;
        first_number := last_number + 1;
    END LOOP;
END
$$;

-- A killed run leaves an invalid index behind.
DROP INDEX CONCURRENTLY IF EXISTS payments_by_status;

-- This runs outside a transaction, and the index has just been dropped.
-- squawk-ignore ban-concurrent-index-creation-in-transaction, prefer-robust-stmts
CREATE INDEX CONCURRENTLY payments_by_status ON payments (status, order_number)
WHERE status NOT IN ('INITIATED', 'SUCCEEDED');
