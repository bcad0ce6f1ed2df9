-- Imports of products from files: which lines of which file were applied, and the lines of the file under way.
--
-- depends: 0082.stuck_events_valid
-- phase: expand
-- lock: none; the tables are new
-- undo: drops them; a file that was imported before then moves its stock again

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE imports (
    digest bytea NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    moved_to bigint NOT NULL DEFAULT 0,
    skipped bigint[] NOT NULL DEFAULT '{}',
    unapplied bigint[] NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT imports_pkey PRIMARY KEY (digest),
    CONSTRAINT imports_digest_length CHECK (octet_length(digest) = 32),
    CONSTRAINT imports_position_range CHECK (position BETWEEN 0 AND moved_to)
);

-- Unlogged: a crash of the server empties it, and the next run of the command fills it again.
-- Columns as in the file, with the types of products. Null: the file has no such column, or the cell is empty.
CREATE UNLOGGED TABLE import_lines (
    run uuid NOT NULL,
    line bigint NOT NULL,
    sku text COLLATE "C" NOT NULL,
    name text,
    description text,
    category text,
    price_minor bigint,
    currency text,
    active boolean,
    max_per_order integer,
    image_url text,
    stock integer,
    stock_delta integer,
    CONSTRAINT import_lines_pkey PRIMARY KEY (run, line)
);
-- Finds a sku that is in the file twice.
CREATE INDEX import_lines_by_sku ON import_lines (run, sku, line);

COMMENT ON TABLE imports IS 'The files that were imported, so that none moves its stock twice.';
COMMENT ON COLUMN imports.digest IS 'The SHA-256 of the file.';
COMMENT ON COLUMN imports.position IS 'The last line that the run under way has applied; 0 when none is.';
COMMENT ON COLUMN imports.moved_to IS 'The last line whose stock_delta any run has moved.';
COMMENT ON COLUMN imports.skipped IS 'Lines up to moved_to that were skipped, so that a further run moves their units.';
COMMENT ON COLUMN imports.unapplied IS 'Lines that the run under way has skipped, to name them when it goes on.';
COMMENT ON COLUMN imports.started_at IS 'When its newest run began at the first line.';
COMMENT ON COLUMN imports.finished_at IS 'When a run last reached the last line; null before.';
COMMENT ON TABLE import_lines IS 'The lines of the one import under way; empty when none is.';
COMMENT ON COLUMN import_lines.run IS 'Which run has staged it: one that lost its lock applies no lines of another.';
COMMENT ON COLUMN import_lines.line IS 'The line of the file at which the record begins; the header is line 1.';
COMMENT ON COLUMN import_lines.sku IS 'Which product.';
COMMENT ON COLUMN import_lines.name IS 'As products.name.';
COMMENT ON COLUMN import_lines.description IS 'As products.description.';
COMMENT ON COLUMN import_lines.category IS 'The slug of its category.';
COMMENT ON COLUMN import_lines.price_minor IS 'As products.price_minor.';
COMMENT ON COLUMN import_lines.currency IS 'As products.currency.';
COMMENT ON COLUMN import_lines.active IS 'As products.active.';
COMMENT ON COLUMN import_lines.max_per_order IS 'As products.max_per_order.';
COMMENT ON COLUMN import_lines.image_url IS 'As products.image_url.';
COMMENT ON COLUMN import_lines.stock IS 'The first units of a new product.';
COMMENT ON COLUMN import_lines.stock_delta IS 'The units to add or remove, once.';

-- Blocks, as in 0007.roles.
DO $$
BEGIN
    IF to_regrole('commerce_app') IS NOT NULL THEN
        GRANT
            SELECT,
            INSERT (digest),
            UPDATE (position, moved_to, skipped, unapplied, started_at, finished_at)
        ON imports TO commerce_app;
        GRANT
            SELECT,
            INSERT (
                run, line, sku, name, description, category, price_minor, currency, active, max_per_order, image_url,
                stock, stock_delta
            ),
            DELETE
        ON import_lines TO commerce_app;
    END IF;
    IF to_regrole('commerce_readonly') IS NOT NULL THEN
        GRANT SELECT ON imports, import_lines TO commerce_readonly;
    END IF;
END
$$;
