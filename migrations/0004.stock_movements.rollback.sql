-- Loses the ledger; products keep their stock.

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

DROP TABLE stock_movements;
