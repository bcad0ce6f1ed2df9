"""Migrations are safe while customers buy: up and down on filled tables, under load, and killed at any point."""

import asyncio
import itertools
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from service.dev import roles
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.migrations import migrate, undo
from service.infra.packaged import MIGRATIONS, index_names
from service.infra.resources import Resources
from service.infra.statements import SQL
from service.settings import Settings
from tests.client import Shop, eventually
from tests.conftest import PASSWORDS, cloned, login, with_database
from tests.database import psql, wait_for_blocked
from tests.queries import on
from tests.sql import catalogue
from tests.stripe_ledger import assert_ledgers_agree

NAMES = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))
TEXTS = {name: (MIGRATIONS / f"{name}.sql").read_text() for name in NAMES}
ROLLBACKS = {name: (MIGRATIONS / f"{name}.rollback.sql").read_text() for name in NAMES}
ALONE = [name for name in NAMES if "\n-- transactional: false\n" in TEXTS[name]]


# Headers, limits and indexes, as the files have them


def statements(text: str) -> list[str]:
    """A file's statements without its comments; a quoted text or block stays whole."""
    bare = re.sub(r"^ *--.*\n", "", text, flags=re.MULTILINE)
    # Every second part is quoted.
    parts = re.split(r"(\$\$.*?\$\$|'[^']*')", bare, flags=re.DOTALL)
    joined = "".join(part.replace(";", ";\0") if number % 2 == 0 else part for number, part in enumerate(parts))
    return [" ".join(statement.split()) for statement in joined.split("\0") if statement.strip()]


def header_complaints(name: str, text: str, rollback: str, before: set[str]) -> Iterator[str]:
    """What is wrong with a migration's header, its limits or its rollback."""
    header = re.match(r"(--.*\n)+", text)
    keys = re.findall(r"^-- (\w+): *(.*)$", header[0] if header else "", re.MULTILINE)
    expected = ["depends", *(["transactional"] if "-- transactional: false" in text else []), "phase", "lock", "undo"]
    if [key for key, _ in keys] != expected:
        yield f"the header has {[key for key, _ in keys]}, not {expected}"
        return
    header_values = dict(keys)
    if not set(header_values["depends"].split()) <= before or bool(header_values["depends"]) != bool(before):
        yield f"depends on {header_values['depends']!r}"
    if header_values["phase"] not in ("expand", "contract"):
        yield f"phase is {header_values['phase']!r}"
    if not header_values["lock"] or not header_values["undo"]:
        yield "lock or undo is empty"
    if not rollback.startswith("-- Loses "):
        yield "the rollback does not say what it loses"
    local = "" if "transactional" in header_values else "LOCAL "
    for kind, lines in (("the migration", statements(text)), ("the rollback", statements(rollback))):
        limits = [rf"SET {local}{limit} = '\w+';" for limit in ("lock_timeout", "statement_timeout")]
        if not all(re.fullmatch(limit, line) for limit, line in zip(limits, lines, strict=False)):
            yield f"{kind} does not begin with lock_timeout and statement_timeout"
        if not lines[2:]:
            yield f"{kind} does nothing"


INDEX = re.compile(
    r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?(\w+) ON (?:ONLY )?(\w+)", re.IGNORECASE
)
CONSTRAINT = re.compile(
    r"ALTER TABLE (?:ONLY )?(\w+) .*ADD CONSTRAINT \w+ (?:PRIMARY KEY|UNIQUE|EXCLUDE)(?! USING INDEX)", re.IGNORECASE
)


def index_complaints(text: str) -> Iterator[str]:
    """Where a migration builds an index on an existing table and blocks its writers meanwhile."""
    lines = statements(text)
    new = {
        table for line in lines for table in re.findall(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", line)
    }
    for number, line in enumerate(lines):
        for concurrently, index, table in INDEX.findall(line):
            if table in new:
                continue
            if not concurrently:
                yield f"{index} is not built CONCURRENTLY"
            elif "\n-- transactional: false\n" not in text:
                yield f"{index} is built CONCURRENTLY in a transaction"
            elif lines[number - 1] != f"DROP INDEX CONCURRENTLY IF EXISTS {index};":
                yield f"{index} is not dropped first, although a killed run leaves it behind"
        for table in CONSTRAINT.findall(line):
            if table not in new:
                yield f"{table} gets an index by its constraint: build the index first, then USING INDEX"


@pytest.mark.parametrize("name", NAMES)
def test_a_migration_has_its_header_and_its_limits(name: str) -> None:
    before = {other for other in NAMES if other < name}
    assert list(header_complaints(name, TEXTS[name], ROLLBACKS[name], before)) == []
    assert list(index_complaints(TEXTS[name])) == []


LIMITS = "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\n"
GOOD = f"-- x\n--\n-- depends: 0001.x\n-- phase: expand\n-- lock: none\n-- undo: x\n\n{LIMITS}\nSELECT 1;\n"
BACK = f"-- Loses x.\n\n{LIMITS}\nSELECT 1;\n"
CONCURRENT = (
    "-- x\n-- transactional: false\nDROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX CONCURRENTLY i ON t (a);"
)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("-- depends: 0001.x\n", ""),
        ("-- depends: 0001.x\n", "-- depends:\n"),
        ("0001.x", "0002.x"),
        ("-- phase: expand\n", ""),
        ("expand", "either"),
        ("-- lock: none\n", ""),
        ("none", ""),
        ("-- undo: x\n", ""),
        ("SET LOCAL lock_timeout = '2s';\n", ""),
        ("SET LOCAL statement_timeout = '60s';\n", ""),
        ("SET LOCAL lock", "SET lock"),
        ("SELECT 1;\n", ""),
    ],
)
def test_a_wrong_header_is_reported(good: str, bad: str) -> None:
    assert list(header_complaints("0002.y", GOOD, BACK, {"0001.x"})) == []
    assert list(header_complaints("0002.y", GOOD.replace(good, bad), BACK, {"0001.x"}))
    if good in BACK:
        assert list(header_complaints("0002.y", GOOD, BACK.replace(good, bad), {"0001.x"}))
    assert list(header_complaints("0002.y", GOOD, BACK.replace("Loses", "Drops"), {"0001.x"}))


@pytest.mark.parametrize(
    "bad",
    [
        "CREATE INDEX i ON t (a);",
        "CREATE UNIQUE INDEX i\n    ON t (a);",
        "-- x\n-- transactional: false\nDROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX i ON t (a);",
        CONCURRENT.replace("-- transactional: false\n", ""),
        CONCURRENT.replace("DROP INDEX CONCURRENTLY IF EXISTS i;\n", ""),
        CONCURRENT.replace("EXISTS i", "EXISTS j"),
        "ALTER TABLE t ADD CONSTRAINT t_a UNIQUE (a);",
        "ALTER TABLE t ADD COLUMN b integer, ADD CONSTRAINT t_pkey PRIMARY KEY (a);",
    ],
)
def test_an_index_that_blocks_writers_is_reported(bad: str) -> None:
    assert list(index_complaints(CONCURRENT)) == []
    assert list(index_complaints(f"CREATE TABLE t (a integer);\n{bad.partition('ALTER')[0]}")) == [] or "CONCURR" in bad
    assert list(index_complaints(bad))


# Up and down

# Rows for the tables that each migration creates, so that later migrations run on filled tables.
FILL = {
    "0001.catalog": """
        INSERT INTO categories (name, slug) SELECT 'Category ' || n, 'category-' || n FROM generate_series(1, 5) AS n;
        INSERT INTO products (name, category_id, price_minor, currency, stock)
        SELECT 'Product ' || n, (SELECT max(id) FROM categories), n, 'EUR', n FROM generate_series(1, 200) AS n""",
    "0002.carts": """
        INSERT INTO carts (id, currency) SELECT gen_random_uuid(), 'EUR' FROM generate_series(1, 200);
        INSERT INTO cart_items (cart_id, product_id, quantity)
        SELECT carts.id, (SELECT max(id) FROM products), 1 FROM carts""",
    "0003.orders": """
        INSERT INTO orders (id, cart_id, total_minor, currency, expires_at, next_attempt_at)
        SELECT gen_random_uuid(), id, 1250, 'EUR', now(), now() FROM carts;
        INSERT INTO order_items (order_id, product_id, name, quantity, unit_price_minor)
        SELECT orders.id, (SELECT max(id) FROM products), 'Product', 1, 1250 FROM orders;
        INSERT INTO payments (id, order_id, amount_minor, currency, session_parameters, session_expires_at)
        SELECT gen_random_uuid(), id, 1250, 'EUR', '{}', now() FROM orders;
        INSERT INTO refunds (id, order_id, stripe_payment_intent_id, amount_minor, cause)
        SELECT gen_random_uuid(), id, 'pi_' || id, 1, 'staff' FROM orders;
        INSERT INTO order_events (order_id, to_status, cause) SELECT id, 'PENDING_PAYMENT', 'test' FROM orders""",
    "0004.stock_movements": """
        INSERT INTO stock_movements (product_id, delta, reason) SELECT id, stock, 'initial stock' FROM products;
        INSERT INTO stock_movements (product_id, delta, reason, order_id, hold)
        SELECT (SELECT max(id) FROM products), -1, 'hold', id, 1 FROM orders""",
    "0005.stripe_events": """
        INSERT INTO stripe_events (id, type, payload, outcome, handled_at)
        SELECT 'evt_' || id, 'x', '{}', 'applied', now() FROM orders""",
    "0021.unmatched_payments": """
        INSERT INTO unmatched_payments (stripe_payment_intent_id, order_id, amount_minor, currency)
        SELECT 'pi_' || id, id, 1, 'EUR' FROM orders""",
    "0065.payment_order_numbers": """
        UPDATE payments SET order_number = (SELECT number FROM orders WHERE id = order_id)""",
    "0087.imports": """
        INSERT INTO imports (digest) VALUES (sha256('file'));
        INSERT INTO import_lines (run, line, sku) VALUES (gen_random_uuid(), 2, 'A-1')""",
    "0040.audit_by_position": """
        INSERT INTO audit_balances (product_id, units) SELECT id, stock FROM products;
        INSERT INTO audit_violations (rule, subject, detail) VALUES ('audit/x', 'order 1', 'wrong');
        INSERT INTO audit_passes (rule, changes_at) VALUES ('audit/x', now())""",
    "0034.disputes": """
        INSERT INTO disputes SELECT 'dp_' || id, 'pi_' || id, id, 1, 'EUR', 'general', 'lost', now() FROM orders""",
    "0035.stuck_items": """
        INSERT INTO stuck_items (kind, id, order_id, reason) SELECT 'refund_failed', id, id, 'declined' FROM orders""",
    "0053.identity": """
        INSERT INTO api_keys (name, prefix, digest, scopes, created_by, expires_at)
        VALUES ('erp', 'cck_erp', sha256('key'), '{stock:write}', 'anna', 'infinity');
        INSERT INTO token_revocations (subject) VALUES ('anna')""",
    "0056.audit_log": """
        INSERT INTO audit_log (actor, action, subject, after, request_id)
        SELECT 'admin', 'create_product', 'product:' || id, '{}', 'x' FROM products""",
    "0080.outgoing_events": """
        INSERT INTO event_endpoints (url, types, secret)
        SELECT 'https://example.com/' || n, '{order.paid}', sha256('secret') FROM generate_series(1, 5) AS n;
        INSERT INTO event_leases (endpoint_id) SELECT id FROM event_endpoints;
        INSERT INTO event_deliveries (endpoint_id, event_id, type, subject, data)
        SELECT event_endpoints.id, orders.id, 'order.paid', 'order:' || orders.id, '{}' FROM event_endpoints, orders;
        INSERT INTO product_announcements (product_id) SELECT id FROM products""",
    "0077.order_shipping": "INSERT INTO order_shipping (order_id, name) SELECT id, 'Jenny Rosen' FROM orders",
    "0075.refund_items": """
        INSERT INTO refund_items (refund_id, product_id, quantity, restock)
        SELECT id, (SELECT max(id) FROM products), 1, true FROM refunds""",
    "0070.search": """
        INSERT INTO product_search
        SELECT id, 1, 'simple', 'product'::tsvector, 'product', price_minor, currency FROM products;
        INSERT INTO search_words (word) VALUES ('product')""",
    "0006.idempotency_keys": """
        INSERT INTO idempotency_keys (id, request_digest, order_id)
        SELECT sha256(id::text::bytea), sha256('body'), id FROM orders""",
}

# Everything that defines the schema, one row for each object. yoyo's own tables are left out.
STRUCTURE = """
WITH own AS (
    SELECT oid, relname, relkind, relowner, relacl, reloptions, relpersistence FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '%yoyo%'
)
SELECT 'relation', relname, concat_ws(' ', relkind, relpersistence, relowner::regrole, reloptions) FROM own
UNION ALL
SELECT 'grant', relname, acl::text FROM own, aclexplode(coalesce(relacl, acldefault('r', relowner))) AS acl
WHERE relkind = 'r'
UNION ALL
-- Of yoyo's tables too: readiness reads which migrations were applied.
SELECT 'grant', relname || '.' || attname, acl::text
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl) AS acl
-- Before PostgreSQL 18 a dropped column keeps its grants.
WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped
UNION ALL
SELECT 'grant', nspname, acl::text
FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS acl WHERE nspname = 'public'
UNION ALL
SELECT 'column', relname, concat_ws(
    ' ', row_number() OVER (PARTITION BY relname ORDER BY attnum), attname, format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'NOT NULL' END, attidentity, attgenerated, attcollation, attstorage,
    pg_get_expr(adbin, adrelid)
)
FROM own JOIN pg_attribute ON attrelid = own.oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v')
UNION ALL
SELECT 'constraint', relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid) || convalidated
FROM own JOIN pg_constraint ON conrelid = own.oid
UNION ALL
SELECT 'index', relname, pg_get_indexdef(indexrelid) || indisvalid || indisready || indisunique
FROM own JOIN pg_index ON indexrelid = own.oid
UNION ALL
SELECT 'sequence', relname, to_jsonb(pg_sequence)::text FROM own JOIN pg_sequence ON seqrelid = own.oid
UNION ALL
SELECT 'trigger', relname || '.' || tgname, pg_get_triggerdef(pg_trigger.oid)
FROM own JOIN pg_trigger ON tgrelid = own.oid WHERE NOT tgisinternal
UNION ALL
SELECT 'comment', relname || coalesce('.' || attname, ''), description
FROM own
JOIN pg_description ON objoid = own.oid AND classoid = 'pg_class'::regclass
LEFT JOIN pg_attribute ON attrelid = own.oid AND attnum = objsubid AND attnum > 0
UNION ALL
-- Extensions stay, with their functions.
SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
"""
# Table locks that can block reads, writes, DDL or VACUUM.
LOCKS = (
    "SELECT DISTINCT relname, mode FROM pg_locks JOIN pg_class ON relation = pg_class.oid"
    " WHERE pid = $1 AND granted AND relkind = 'r' AND relname = ANY($2)"
    " AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
)


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def empty(template: str, options: str = "") -> AsyncIterator[str]:
    """The URL, for a superuser, of a database that has the roles and nothing else; `options` of CREATE DATABASE."""
    name = f"test_{uuid4().hex}"
    async with connected(template) as server:
        await server.execute(f"CREATE DATABASE {name} {options}")
        try:
            roles.make_roles(with_database(template, name), PASSWORDS)
            yield with_database(template, name)
        finally:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def structure(database: asyncpg.Connection) -> set[tuple[str, str, str]]:
    """The schema as (kind, name, definition). The numbers of sequences differ between databases and are left out."""
    rows = [tuple(row) for row in await database.fetch(STRUCTURE)]
    return {(kind, name, re.sub(r'"seqrelid": "\d+", ', "", text or "")) for kind, name, text in rows}


async def contents(database: asyncpg.Connection) -> dict[str, str]:
    """A digest of the rows of each table."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relname NOT LIKE '%yoyo%'"
    )
    digest = "SELECT count(*) || ' ' || md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} AS t"
    return {table: await database.fetchval(digest.format(table)) for (table,) in tables}


def declared_locks(name: str, tables: set[str]) -> set[tuple[str, str]]:
    """The locks of existing tables that a header declares, as (table, mode)."""
    (value,) = re.findall(r"^-- lock: (.*(?:\n--  .*)*)$", TEXTS[name], re.MULTILINE)
    value = re.sub(r"\n-- +", " ", value)
    result = set()
    for part in value.split(";"):
        if locks := re.match(r" ?([A-Z ]+) on (.*)", part):
            mode = "".join(word.capitalize() for word in locks[1].split()) + "Lock"
            result |= {(table, mode) for table in tables & set(re.findall(r"\w+", locks[2]))}
    return result


async def test_each_migration_goes_up_down_and_up_again_on_filled_tables(template: str, tmp_path: Path) -> None:
    """Each migration locks what its header declares, its rollback restores the schema, and it can run again.

    Method: beginning with an empty database, apply one migration after the other. Fill the new tables, roll back,
    compare structure and contents with those before, and apply again. The last structure is that of the template.
    """
    async with empty(template) as url, connected(url) as database:
        owner = login(url, "owner")
        for name in NAMES:
            before, rows = await structure(database), await contents(database)
            folder = alone(tmp_path, name)
            if name not in ALONE:
                async with connected(owner) as locker:
                    await locker.execute("BEGIN")
                    await locker.execute(TEXTS[name])
                    locks = await locker.fetch(LOCKS, locker.get_server_pid(), list(rows))
                # COMMENT ON takes a lock that an exclusive one includes.
                included = {
                    (table, "ShareUpdateExclusiveLock") for table, mode in locks if mode == "AccessExclusiveLock"
                }
                assert declared_locks(name, set(rows)) - included == {tuple(lock) for lock in locks} - included, name

            assert await migrate(owner, folder) == [name]
            after = await structure(database)
            assert after != before
            await database.execute(FILL.get(name, "SELECT 1"))
            assert await undo(owner, folder) == [name]
            assert {
                # A rollback that reads no rows under its lock leaves the old constraint unvalidated.
                (kind, each, text.replace(" NOT VALIDfalse", "true") if name == "0075.refund_items" else text)
                for kind, each, text in await structure(database)
            } == before, name
            assert await contents(database) == rows, name

            assert await migrate(owner, folder) == [name]
            assert await structure(database) == after, name
            await database.execute(FILL.get(name, "SELECT 1"))
            assert all(row is not None for row in (await contents(database)).values()), f"{name} needs a FILL"
        assert await migrate(owner) == []
        async with cloned(template) as whole, connected(whole) as other:
            assert await structure(other) == await structure(database)


async def test_the_catalogue_fills_every_table_that_grows(database: asyncpg.Connection) -> None:
    tables = set(await contents(database))
    filled = {table for stage in catalogue.tables(1000) for table in stage}
    small = {"audit_passes", "audit_positions", "hold_pressure", "reconcile_positions", "worker_heartbeats"}
    assert tables - filled == small, "tests/sql/catalogue.py has no rows for it"


async def test_the_retention_table_has_every_table(database: asyncpg.Connection) -> None:
    section = (SQL / "README.md").read_text().partition("\n## Retention\n")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`.+?) \|", section, re.MULTILINE))
    assert set(re.findall(r"\w+", first_cells)) == set(await contents(database)), "sql/README.md, section Retention"


async def test_the_list_of_what_may_be_stored_has_every_column(database: asyncpg.Connection) -> None:
    """A first cell names columns as `table.column`, `column` of the same table; `table.*`; or columns of any table."""
    section = (SQL / "README.md").read_text().partition("\n## What may be stored\n")[2].partition("\n## ")[0]
    listed: set[str] = set()
    for cell in re.findall(r"^\| ([^|]*`.+?) \|", section, re.MULTILINE):
        table = "*"
        for name in re.findall(r"`([\w.*]+)`", cell):
            table, column = name.split(".") if "." in name else (table, name)
            listed.add(f"{table}.{column}")
    columns = await database.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name !~ 'yoyo'"
    )
    missing = [
        f"{table}.{column}"
        for table, column in columns
        if not listed & {f"{table}.{column}", f"{table}.*", f"*.{column}"}
    ]
    assert missing == [], "sql/README.md, section What may be stored"


async def test_every_table_and_column_has_a_comment(database: asyncpg.Connection) -> None:
    missing = await database.fetch("""
        SELECT relname || coalesce('.' || attname, '')
        FROM pg_class CROSS JOIN LATERAL (
            SELECT NULL AS attname, 0 AS number
            UNION ALL
            SELECT attname, attnum FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        ) AS part
        WHERE
            relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND relname !~ 'yoyo'
            AND NOT EXISTS (
                SELECT FROM pg_description
                WHERE objoid = pg_class.oid AND classoid = 'pg_class'::regclass AND objsubid = number
            )
    """)
    assert [name for (name,) in missing] == [], "COMMENT ON each, in the migration that adds it"


async def test_numbers_of_orders_are_filled_in_without_waiting_for_a_payment(
    shop: Shop, database: asyncpg.Connection, database_url: str
) -> None:
    """What nobody else has locked is filled, and free again; the rest follows."""
    ids = [(await shop.checked_out_cart())["order_id"] for _ in range(3)]
    await database.execute("UPDATE payments SET order_number = NULL")
    (fill,) = [line for line in statements(TEXTS["0066.payments_by_status"]) if line.startswith("DO ")]
    wrong = (
        "SELECT count(*) FROM payments JOIN orders ON order_id = orders.id WHERE order_number IS DISTINCT FROM number"
    )

    async def is_all_but_one() -> bool:
        return bool(await database.fetchval(wrong) == 1)

    async with connected(database_url) as customer, connected(database_url) as migrator:
        async with customer.transaction():
            await customer.execute("SET LOCAL lock_timeout = '2s'")
            await customer.execute("SELECT FROM payments WHERE order_id = $1 FOR NO KEY UPDATE", ids[0])
            filling = asyncio.create_task(migrator.execute(fill))
            await eventually(is_all_but_one)
            await customer.execute("UPDATE payments SET updated_at = now()")
        await filling

    assert await database.fetchval(wrong) == 0


async def test_captured_amounts_can_be_rolled_back_and_migrated_again(
    database: asyncpg.Connection, database_url: str
) -> None:
    """One payment of another amount is refunded, a second one is not yet."""
    await database.execute("SET session_replication_role = replica")
    payment = (
        "INSERT INTO payments (id, order_id, status, amount_minor, currency, refunded_minor, session_parameters,"
        " session_expires_at, stripe_session_id, stripe_payment_intent_id, captured_minor, captured_currency)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), $1, 1250, 'EUR', $2, '{}', now(), $3, $3, $4, 'EUR')"
    )
    await database.execute(payment, "REFUNDED", 1490, "cs_1", 1490)
    await database.execute(payment, "REFUND_PENDING", 100, "cs_2", 1490)
    owner = login(database_url, "owner")
    await back_to(database_url, "0019.captured_amounts")
    payments = "SELECT status, refunded_minor FROM payments ORDER BY stripe_session_id"
    assert [tuple(row) for row in await database.fetch(payments)] == [("REFUNDED", 1250), ("REFUND_PENDING", 0)]
    assert await migrate(owner) == [name for name in NAMES if name >= "0019"]


async def test_units_that_refunds_returned_stay_in_the_ledger_without_them(
    database: asyncpg.Connection, database_url: str
) -> None:
    """Three lines were returned: by one refund, by a refund and a release, and of an order that is not ended."""
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "INSERT INTO orders (id, cart_id, status, total_minor, currency, expires_at, created_at, paid_at, cancelled_at,"
        " next_attempt_at) SELECT md5(status)::uuid, gen_random_uuid(), status, 1250, 'EUR', now(), now(), now(),"
        " CASE status WHEN 'CANCELLED' THEN now() END, now() FROM unnest('{CANCELLED,PAID}'::text[]) AS status"
    )
    movement = (
        "INSERT INTO stock_movements (product_id, delta, reason, order_id, hold) VALUES ($1, 1, $2, md5($3)::uuid, 1)"
    )
    returned = f"refund:{uuid4()}"
    for row in (
        (1, returned, "CANCELLED"),
        (2, returned, "CANCELLED"),
        (2, "release", "CANCELLED"),
        (3, returned, "PAID"),
    ):
        await database.execute(movement, *row)
    await back_to(database_url, "0075.refund_items")
    rows = await database.fetch("SELECT reason, order_id IS NULL FROM stock_movements ORDER BY id")
    assert [tuple(row) for row in rows] == [("release", False), (returned, True), ("release", False), (returned, True)]


async def test_old_slugs_that_differ_only_in_their_normal_form_stay_apart(
    database: asyncpg.Connection, database_url: str
) -> None:
    composed, decomposed, other = "caf\u00e9", "cafe\u0301", "e\u0301"
    await back_to(database_url, "0037.texts_and_limits")
    for number, slug in enumerate((composed, decomposed, other), 1):
        insert = "INSERT INTO categories (id, slug, name) OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'x')"
        await database.execute(insert, number, slug)
    assert await migrate(login(database_url, "owner"))
    slugs = [row["slug"] for row in await database.fetch("SELECT slug FROM categories ORDER BY id")]
    assert slugs == [composed, f"{composed}-2", "\u00e9"]


async def test_all_rollbacks_leave_an_empty_database(database: asyncpg.Connection, database_url: str) -> None:
    owner = login(database_url, "owner")
    assert await undo(owner) == [NAMES[-1]]
    await back_to(database_url, NAMES[0])
    assert await undo(owner) == []
    assert await contents(database) == {}
    remaining = await structure(database)
    assert {(kind, name) for kind, name, _ in remaining} == {("grant", "public")}


async def test_migrations_run_without_the_roles(template: str) -> None:
    """On a server with one user and no roles, the grants are skipped, up and down."""
    # Roles belong to the whole server and exist here, so the texts name roles that do not exist.
    renamed = [name for name in NAMES if "commerce_" in TEXTS[name]]
    assert renamed
    async with empty(template) as url, connected(url) as database:
        for name in NAMES:
            for text in (TEXTS[name], ROLLBACKS[name], TEXTS[name]):
                for statement in statements(text.replace("commerce_", "nobodys_")):
                    await database.execute(statement)
        grantees = "SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl) WHERE grantee::regrole::text LIKE 'comm%'"
        assert await database.fetch(f"{grantees} AND relnamespace = 'public'::regnamespace") == []


async def test_roles_created_later_get_their_grants(database: asyncpg.Connection, database_url: str) -> None:
    whole = await structure(database)
    for name in reversed(NAMES):
        for statement in statements(ROLLBACKS[name]):
            if "REVOKE" in statement:
                await database.execute(statement)
    await database.execute("REVOKE ALL (ordered_at) ON carts FROM commerce_app")
    assert await structure(database) != whole
    (line,) = re.findall(r"^    (sed .*)$", (MIGRATIONS / "README.md").read_text(), re.MULTILINE)
    process = await asyncio.create_subprocess_shell(
        line.replace("psql ", f"{psql()} --no-psqlrc --set ON_ERROR_STOP=1 "),
        env={**os.environ, "OWNER_URL": login(database_url, "owner")},
        cwd=MIGRATIONS.parent,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    assert await structure(database) == whole


# Killed, waiting and failing

BUILDING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND query ~ 'CREATE (UNIQUE )?INDEX CONCURRENTLY'"
)


async def back_to(url: str, name: str) -> None:
    """Roll back down to this migration, and it too."""
    newer = reversed(NAMES[NAMES.index(name) :])
    with TemporaryDirectory() as folder:
        for each in newer:
            # Those that are not applied are left out.
            if await undo(login(url, "owner"), alone(Path(folder), each)) == [name]:
                return
    raise AssertionError(f"{name} was not applied")


def alone(folder: Path, name: str) -> Path:
    """A folder with this migration alone, which is read fast."""
    own = folder / name
    own.mkdir()
    (own / f"{name}.sql").write_text(re.sub("^-- depends: .*", "-- depends:", TEXTS[name], flags=re.MULTILINE))
    (own / f"{name}.rollback.sql").write_text(ROLLBACKS[name])
    return own


@asynccontextmanager
async def migrating(settings: Settings, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m service migrate` as a process, which is killed if it still runs at the end."""
    environment = {"DATABASE_URL": settings.database_url, "MIGRATE_DATABASE_URL": settings.migrate_database_url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "migrate"),
        env={**os.environ, **environment},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def result_of(process: asyncio.subprocess.Process) -> tuple[int | None, list[str], str]:
    """Its exit status, the migrations that it applied, and its error output."""
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode().split(), errors.decode()


# Where the migrator is killed: at a lock of its own, or after its work and before the mark that it has run.
LOCKED_AGAINST = {
    "at a lock": "LOCK TABLE products IN ROW EXCLUSIVE MODE",
    "before its mark": "LOCK TABLE _yoyo_migration IN EXCLUSIVE MODE",
}


@pytest.mark.parametrize("where", LOCKED_AGAINST)
async def test_the_next_run_finishes_a_killed_migration(
    settings: Settings, database: asyncpg.Connection, database_url: str, tmp_path: Path, where: str
) -> None:
    whole = await structure(database)
    await back_to(database_url, "0004.stock_movements")
    async with database.transaction():
        await database.execute(LOCKED_AGAINST[where])
        async with migrating(settings, tmp_path) as killed:
            await wait_for_blocked(database)
            killed.send_signal(signal.SIGKILL)
            assert await killed.wait() == -signal.SIGKILL
    async with migrating(settings, tmp_path) as process:
        status, applied, errors = await result_of(process)
    assert (status, errors) == (0, "")
    assert applied == NAMES[NAMES.index("0004.stock_movements") :]
    assert await structure(database) == whole


async def test_the_next_run_finishes_a_killed_index_build(
    settings: Settings, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """The next migrator starts while the server still runs the killed one's statement."""
    whole = await structure(database)
    await back_to(database_url, "0009.orders_by_cart")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('orders_by_cart')"
    async with connected(database_url) as slow, slow.transaction():
        # The build waits for this transaction.
        await slow.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        async with migrating(settings, tmp_path) as killed:
            await wait_for_blocked(database)
            pid = await database.fetchval(BUILDING)
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        assert await database.fetchval(valid) is False
        async with migrating(settings, tmp_path) as process:
            # The server ends the statement once it notices that its client is gone. Then the next migrator can start.
            alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
            await eventually(lambda: database.fetchval(f"SELECT ({alive}) = 0", pid))
            await wait_for_blocked(database)
            assert await database.fetchval(valid) is not True
            await slow.execute("ROLLBACK")
            status, applied, errors = await result_of(process)
            await slow.execute("BEGIN")
    assert (status, errors) == (0, "")
    assert applied == NAMES[NAMES.index("0009.orders_by_cart") :]
    assert await structure(database) == whole


async def test_a_migration_without_a_transaction_can_stop_anywhere(template: str, tmp_path: Path) -> None:
    """Stopped before any of its statements or before its mark, up or down, it can be finished and it can be undone.

    Method: for each place, a copy of the file fails there. Then the file itself runs, in the same direction or in the
    other. The schema must be that of an undisturbed run, and an unfinished migration must count as not applied.
    """
    marked = "SELECT count(*) FROM _yoyo_migration WHERE migration_id = $1"
    async with cloned(template) as url, connected(url) as database:
        owner = login(url, "owner")
        for name in reversed(ALONE):
            await back_to(url, name)
            folder = alone(tmp_path, name)
            files = {migrate: folder / f"{name}.sql", undo: folder / f"{name}.rollback.sql"}
            texts = {way: file.read_text() for way, file in files.items()}
            ends = {undo: await structure(database)}
            assert await migrate(owner, folder) == [name]
            ends[migrate] = await structure(database)
            assert await undo(owner, folder) == [name]
            for way, back in ((migrate, undo), (undo, migrate)):
                lines = statements(texts[way])
                # The first two statements are the limits of time.
                for stop, finish in itertools.product(range(2, len(lines) + 1), (back, way)):
                    directives = "-- transactional: false\n-- depends:\n" if way is migrate else ""
                    files[way].write_text("\n".join([directives, *lines[:stop], "SELECT 1 / 0;"]))
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        await way(owner, folder)
                    files[way].write_text(texts[way])
                    assert await database.fetchval(marked, name) == 0

                    assert await finish(owner, folder) == [name]

                    assert await structure(database) == ends[finish], (name, way, stop, finish)
                    if (stop, finish) != (len(lines), way) and finish is way:
                        await back(owner, folder)


async def test_an_invalid_index_is_found_and_built_again(
    shop: Shop, database: asyncpg.Connection, database_url: str
) -> None:
    """However it became invalid, also after its migration was marked as applied."""
    whole, owner = await structure(database), login(database_url, "owner")
    built = {index: name for name in ALONE for _, index, _ in INDEX.findall(" ".join(statements(TEXTS[name])))}
    valid = "UPDATE pg_index SET indisvalid = $2 WHERE indexrelid = to_regclass($1)"
    for index in index_names():
        if (await database.execute(valid, index, False)).endswith(" 0"):
            continue  # A later migration replaced it.
        assert (await shop.call("GET", "/health/ready", 503))["postgresql"] == "not_migrated"

        if index in built:
            assert await migrate(owner) == [built[index]]
        else:
            # Made with its table, so nothing would make it again alone.
            with pytest.raises(ShopError, match=f"^unavailable: Invalid: {index}. Run REINDEX"):
                await migrate(owner)
            await database.execute(f"REINDEX INDEX CONCURRENTLY {index}")

        await shop.call("GET", "/health/ready", 200)
        assert await structure(database) == whole
    assert await migrate(owner) == []


@pytest.mark.parametrize(
    ("name", "table"),
    [(name, table) for name in ALONE for _, _, table in INDEX.findall(" ".join(statements(TEXTS[name])))],
)
async def test_an_index_build_blocks_neither_customers_nor_another_migrator(
    template: str, name: str, table: str
) -> None:
    """Only DDL and VACUUM wait for the build, and a second migrator that starts meanwhile cannot deadlock with it.

    Method: an open transaction makes the build wait. Meanwhile a customer locks rows without waiting, and a second
    migrator starts. Both migrators end once the transaction has ended.
    """
    async with cloned(template) as url, connected(url) as database, connected(url) as slow:
        await back_to(url, name)
        tables = set(await contents(database))
        async with slow.transaction():
            await slow.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
            first = asyncio.create_task(migrate(login(url, "owner")))
            await wait_for_blocked(database)
            pid = await database.fetchval(BUILDING)
            locks = {tuple(lock) for lock in await database.fetch(LOCKS, pid, list(tables))}
            assert locks == {(table, "ShareUpdateExclusiveLock")}
            assert locks <= declared_locks(name, tables)
            async with connected(url, lock_timeout="1ms") as customer, customer.transaction():
                await customer.execute(f"SELECT FROM {table} FOR UPDATE")
                await customer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
            second = asyncio.create_task(migrate(login(url, "owner")))
            two = "SELECT count(*) >= 2 FROM pg_stat_activity WHERE application_name = 'commerce-migrate'"
            await eventually(lambda: database.fetchval(f"{two} AND datname = current_database()"))
        # If the second one waited inside a statement, the build would wait for that statement and both would never end.
        assert await asyncio.wait_for(first, 30) == NAMES[NAMES.index(name) :]
        assert await asyncio.wait_for(second, 30) == []


async def test_a_migration_retries_when_a_lock_times_out(
    database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """Each wait ends after lock_timeout, so that statements which queue behind it wait only briefly."""
    (tmp_path / "0001.x.sql").write_text(
        "-- depends:\nSET LOCAL lock_timeout = '50ms';\nALTER TABLE products ADD COLUMN more integer;\n"
    )
    tries = "SELECT xact_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def tried_after(first: object) -> object:
        started = await database.fetchval(tries)
        return started if started != first else None

    async with connected(database_url) as slow, slow.transaction():
        await slow.execute("LOCK TABLE products IN ROW EXCLUSIVE MODE")
        with pytest.raises(ShopError, match=r"^busy: 0001\.x could not get its locks"):
            await migrate(login(database_url, "owner"), tmp_path)
        trying = asyncio.create_task(migrate(login(database_url, "owner"), tmp_path))
        first = await eventually(lambda: tried_after(None))
        await eventually(lambda: tried_after(first))
    assert await trying == ["0001.x"]


async def test_a_migration_that_fails_changes_nothing_and_stops_the_rest(
    database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    for number, text in enumerate(("SELECT 1;", "CREATE TABLE made ();\nSELECT 1 / 0;", "CREATE TABLE later ();")):
        depends = f"{number - 1:04}.x" if number else ""
        (tmp_path / f"{number:04}.x.sql").write_text(f"-- depends: {depends}\n{text}\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(login(database_url, "owner"), tmp_path)
    tables = await database.fetchrow("SELECT to_regclass('made'), to_regclass('later')")
    assert tuple(tables) == (None, None)
    (tmp_path / "0001.x.sql").write_text("-- depends: 0000.x\nCREATE TABLE made ();\n")
    assert await migrate(login(database_url, "owner"), tmp_path) == ["0001.x", "0002.x"]


# Under load

EXPAND = {
    "9001.staff_note": (
        "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\n"
        "ALTER TABLE orders ADD COLUMN staff_note text;\n"
        "ALTER TABLE orders ADD CONSTRAINT orders_staff_note_length CHECK (char_length(staff_note) <= 1000) NOT VALID;",
        "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\n"
        "ALTER TABLE orders DROP COLUMN staff_note;",
    ),
    "9002.staff_note_valid": (
        "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\n"
        "ALTER TABLE orders VALIDATE CONSTRAINT orders_staff_note_length;",
        "SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '60s';\nSELECT 1;",
    ),
    "9003.orders_noted": (
        "-- transactional: false\nSET lock_timeout = '10min';\nSET statement_timeout = '1h';\n"
        "DROP INDEX CONCURRENTLY IF EXISTS orders_noted;\n"
        "CREATE INDEX CONCURRENTLY orders_noted ON orders (number) WHERE staff_note IS NOT NULL;",
        "SET lock_timeout = '10min';\nSET statement_timeout = '1h';\nDROP INDEX CONCURRENTLY IF EXISTS orders_noted;",
    ),
}


async def test_no_customer_request_fails_during_migrations(
    shop: Shop, stripe: StripeStandin, resources: Resources, worker: None, database_url: str, tmp_path: Path
) -> None:
    """The old code serves customers on the old schema, then on the new one, then on the old one again.

    Method: four customers buy or cancel in a loop. Meanwhile three migrations run, the index build behind an open
    report, and are rolled back. Every answer is a success, all orders finish, and the ledgers agree with Stripe.
    """
    for path in MIGRATIONS.glob("*.sql"):
        shutil.copy(path, tmp_path)
    last = NAMES[-1]
    for name, (text, rollback) in EXPAND.items():
        (tmp_path / f"{name}.sql").write_text(f"-- depends: {last}\n{text}\n")
        (tmp_path / f"{name}.rollback.sql").write_text(f"{rollback}\n")
        last = name
    products = [(await shop.create_product(stock=1000))["id"] for _ in range(3)]
    answers: list[tuple[str, int]] = []
    bought = [0] * 4
    closing = asyncio.Event()

    async def call(method: str, path: str, json: object = None) -> dict[str, object]:
        answer = await shop.http.request(method, path, json=json)
        answers.append((f"{method} {path}", answer.status_code))
        return dict(answer.json())

    async def customer(number: int) -> None:
        while not closing.is_set():
            cart = (await call("POST", "/carts"))["id"]
            for product in products:
                await call("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
            placed = await call("POST", f"/carts/{cart}/checkout")
            if number:
                stripe.pay(placed["payment"]["stripe_session_id"])  # type: ignore[index]
            else:
                await call("POST", f"/orders/{placed['order_id']}/cancel")
            await call("GET", f"/orders/{placed['order_id']}")
            await call("GET", "/orders")
            bought[number] += 1

    async def all_buy() -> None:
        """Wait until every customer has bought twice more."""
        goal = [count + 2 for count in bought]

        async def goal_reached() -> bool:
            return all(count >= least for count, least in zip(bought, goal, strict=True))

        await eventually(goal_reached, 60)

    owner = login(database_url, "owner")
    customers = [asyncio.create_task(customer(number)) for number in range(len(bought))]
    await all_buy()
    async with connected(database_url) as slow:
        # The index build waits for a report that began earlier; no customer does.
        await slow.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await slow.execute("SELECT count(*) FROM products")
        changing = asyncio.create_task(migrate(owner, tmp_path))
        await wait_for_blocked(slow)
        await all_buy()
        assert not changing.done()
    assert await changing == list(EXPAND)
    await all_buy()
    for name in reversed(EXPAND):
        assert await undo(owner, tmp_path) == [name]
    await all_buy()
    closing.set()
    await asyncio.gather(*customers)

    assert [answer for answer in answers if answer[1] not in (200, 201)] == []

    async def finished() -> bool:
        nothing_due = "SELECT count(*) = 0 FROM orders WHERE next_attempt_at IS NOT NULL"
        return bool(await on(resources.pool).fetchval(nothing_due)) and not any(
            e["pending_webhooks"] for e in stripe.events
        )

    await eventually(finished)
    fulfilled = await on(resources.pool).fetchval("SELECT count(*) FROM orders WHERE status = 'FULFILLED'")
    assert fulfilled == sum(bought[1:])
    await assert_ledgers_agree(resources, stripe)


# The search


async def test_a_database_without_letters_beyond_ascii_is_refused(template: str) -> None:
    for letters in ("C", "POSIX"):
        async with empty(template, f"TEMPLATE template0 LC_CTYPE '{letters}'") as url:
            with pytest.raises(psycopg.Error, match=r"LC_CTYPE is C\. .*createdb .*--lc-ctype=C\.UTF-8 NEW &&"):
                await migrate(login(url, "owner"))


async def test_without_pg_trgm_the_migration_names_the_command(template: str) -> None:
    async with empty(template) as url, connected(url) as administrator:
        name = await administrator.fetchval("SELECT current_database()")
        await administrator.execute(f"REVOKE CREATE ON DATABASE {name} FROM commerce_owner")
        with pytest.raises(psycopg.Error, match=r"--command='CREATE EXTENSION pg_trgm'"):
            await migrate(login(url, "owner"))
        await administrator.execute("CREATE EXTENSION pg_trgm")
        await migrate(login(url, "owner"))
