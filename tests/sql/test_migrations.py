"""Migrations that are safe at noon: forwards and back on filled tables, beside customers, and cut off in the middle."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from service.dev import roles
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra.migrations import MIGRATIONS, migrate, undo
from service.infra.resources import Resources
from service.settings import Settings
from tests.books import balance
from tests.client import Shop, eventually, psql, waiting
from tests.conftest import PASSWORD, cloned, login, named

NAMES = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))
TEXTS = {name: (MIGRATIONS / f"{name}.sql").read_text() for name in NAMES}
ROLLBACKS = {name: (MIGRATIONS / f"{name}.rollback.sql").read_text() for name in NAMES}
ALONE = [name for name in NAMES if "\n-- transactional: false\n" in TEXTS[name]]


# What stands in the files


def statements(text: str) -> list[str]:
    """A file's statements without its comments; what is quoted by dollars stays whole."""
    bare = re.sub(r"^ *--.*\n", "", text, flags=re.MULTILINE)
    resources = re.split(r"(\$\$.*?\$\$)", bare, flags=re.DOTALL)
    joined = "".join(part.replace(";", ";\0") if number % 2 == 0 else part for number, part in enumerate(resources))
    return [" ".join(statement.split()) for statement in joined.split("\0") if statement.strip()]


def header_complaints(name: str, text: str, rollback: str, before: set[str]) -> Iterator[str]:
    """What is wrong with a migration's header, its limits or its way back."""
    header = re.match(r"(--.*\n)+", text)
    keys = re.findall(r"^-- (\w+): *(.*)$", header[0] if header else "", re.MULTILINE)
    expected = ["depends", *(["transactional"] if "-- transactional: false" in text else []), "phase", "lock", "undo"]
    if [key for key, _ in keys] != expected:
        yield f"the header has {[key for key, _ in keys]}, not {expected}"
        return
    said = dict(keys)
    if not set(said["depends"].split()) <= before or bool(said["depends"]) != bool(before):
        yield f"depends on {said['depends']!r}"
    if said["phase"] not in ("expand", "contract"):
        yield f"phase is {said['phase']!r}"
    if not said["lock"] or not said["undo"]:
        yield "lock or undo says nothing"
    if not rollback.startswith("-- Loses "):
        yield "the rollback does not say what it loses"
    local = "" if "transactional" in said else "LOCAL "
    for kind, lines in (("it", statements(text)), ("its rollback", statements(rollback))):
        limits = [rf"SET {local}{limit} = '\w+';" for limit in ("lock_timeout", "statement_timeout")]
        if not all(re.fullmatch(limit, line) for limit, line in zip(limits, lines, strict=False)):
            yield f"{kind} does not begin with its limits"
        if not lines[2:]:
            yield f"{kind} does nothing"


INDEX = re.compile(
    r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?(\w+) ON (?:ONLY )?(\w+)", re.IGNORECASE
)
CONSTRAINT = re.compile(
    r"ALTER TABLE (?:ONLY )?(\w+) .*ADD CONSTRAINT \w+ (?:PRIMARY KEY|UNIQUE|EXCLUDE)(?! USING INDEX)", re.IGNORECASE
)


def index_complaints(text: str) -> Iterator[str]:
    """Where a migration builds an index on a table that may have rows, and keeps its writers waiting meanwhile."""
    lines = statements(text)
    new = {table for line in lines for table in re.findall(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+)", line)}
    for number, line in enumerate(lines):
        for concurrently, index, table in INDEX.findall(line):
            if table in new:
                continue
            if not concurrently:
                yield f"{index} is not built CONCURRENTLY"
            elif "\n-- transactional: false\n" not in text:
                yield f"{index} is built CONCURRENTLY in a transaction"
            elif lines[number - 1] != f"DROP INDEX CONCURRENTLY IF EXISTS {index};":
                yield f"{index} is not dropped first, as a run that was killed leaves it behind"
        for table in CONSTRAINT.findall(line):
            if table not in new:
                yield f"{table} gets an index by its constraint: build that first, then USING INDEX"


@pytest.mark.parametrize("name", NAMES)
def test_a_migration_says_what_it_does_and_sets_its_limits(name: str) -> None:
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
def test_a_header_that_is_wrong_is_noticed(good: str, bad: str) -> None:
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
def test_an_index_that_keeps_writers_waiting_is_noticed(bad: str) -> None:
    assert list(index_complaints(CONCURRENT)) == []
    assert list(index_complaints(f"CREATE TABLE t (a integer);\n{bad.partition('ALTER')[0]}")) == [] or "CONCURR" in bad
    assert list(index_complaints(bad))


# Forwards and back

# What each has put into the tables that it made, so that whatever comes next finds them filled.
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
    "0006.idempotency_keys": """
        INSERT INTO idempotency_keys (id, request_digest, order_id)
        SELECT sha256(id::text::bytea), sha256('body'), id FROM orders""",
}

# All of a schema that anybody could notice: a line each, of what is not yoyo's.
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
SELECT 'grant', relname || '.' || attname, acl::text
FROM own JOIN pg_attribute ON attrelid = own.oid, aclexplode(attacl) AS acl
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
SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
# Those for which somebody who reads or writes a row may have to wait, or who keeps DDL and VACUUM waiting.
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
async def empty(template: str) -> AsyncIterator[str]:
    """A database that has the roles and nothing else; its URL, as a superuser."""
    name = f"test_{uuid4().hex}"
    async with connected(template) as server:
        await server.execute(f"CREATE DATABASE {name}")
        try:
            roles.make_roles(named(template, name), PASSWORD)
            yield named(template, name)
        finally:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def structure(database: asyncpg.Connection) -> set[tuple[str, str, str]]:
    # Sequences are called by their number only in what they belong to.
    found = [tuple(row) for row in await database.fetch(STRUCTURE)]
    return {(kind, name, re.sub(r'"seqrelid": "\d+", ', "", text or "")) for kind, name, text in found}


async def contents(database: asyncpg.Connection) -> dict[str, str]:
    """What is in each table, as a digest."""
    tables = await database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relname NOT LIKE '%yoyo%'"
    )
    digest = "SELECT count(*) || ' ' || md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} AS t"
    return {table: await database.fetchval(digest.format(table)) for (table,) in tables}


def declared(name: str, tables: set[str]) -> set[tuple[str, str]]:
    """The locks that a header tells of, on tables that were there before."""
    (said,) = re.findall(r"^-- lock: (.*)$", TEXTS[name], re.MULTILINE)
    found = set()
    for part in said.split(";"):
        if locks := re.match(r" ?([A-Z ]+) on (.*)", part):
            mode = "".join(word.capitalize() for word in locks[1].split()) + "Lock"
            found |= {(table, mode) for table in tables & set(re.findall(r"\w+", locks[2]))}
    return found


async def test_each_goes_forwards_and_back_and_forwards_again_on_filled_tables(template: str, tmp_path: Path) -> None:
    async with empty(template) as url, connected(url) as database:
        owner = login(url, "owner")
        for name in NAMES:
            before, rows = await structure(database), await contents(database)
            for suffix in ("sql", "rollback.sql"):
                shutil.copy(MIGRATIONS / f"{name}.{suffix}", tmp_path)
            if name not in ALONE:
                async with connected(owner) as locker:
                    await locker.execute("BEGIN")
                    await locker.execute(TEXTS[name])
                    locks = await locker.fetch(LOCKS, locker.get_server_pid(), list(rows))
                assert declared(name, set(rows)) == {tuple(lock) for lock in locks}, name

            assert await migrate(owner, tmp_path) == [name]
            after = await structure(database)
            assert after != before
            await database.execute(FILL.get(name, "SELECT 1"))
            assert await undo(owner, tmp_path) == [name]
            assert await structure(database) == before, name
            assert await contents(database) == rows, name

            assert await migrate(owner, tmp_path) == [name]
            assert await structure(database) == after, name
            await database.execute(FILL.get(name, "SELECT 1"))
            assert all(row is not None for row in (await contents(database)).values()), f"{name} needs a FILL"
            assert await migrate(owner, tmp_path) == []
        async with cloned(template) as whole, connected(whole) as other:
            assert await structure(other) == await structure(database)


async def test_payments_of_another_amount_go_back_and_forwards_again(
    database: asyncpg.Connection, database_url: str
) -> None:
    """One is refunded, more than its order asked for; the other is still to be."""
    await database.execute("SET session_replication_role = replica")
    payment = (
        "INSERT INTO payments (id, order_id, status, amount_minor, currency, refunded_minor, session_parameters,"
        " session_expires_at, stripe_session_id, captured_minor, captured_currency) VALUES (gen_random_uuid(),"
        " gen_random_uuid(), $1, 1250, 'EUR', $2, '{}', now(), $3, $4, 'EUR')"
    )
    await database.execute(payment, "REFUNDED", 1490, "cs_1", 1490)
    await database.execute(payment, "REFUND_PENDING", 100, "cs_2", 1490)
    owner = login(database_url, "owner")
    await back_to(database_url, "0019.captured_amounts")
    left = "SELECT status, refunded_minor FROM payments ORDER BY stripe_session_id"
    assert [tuple(row) for row in await database.fetch(left)] == [("REFUNDED", 1250), ("REFUND_PENDING", 0)]
    assert await migrate(owner) == [name for name in NAMES if name >= "0019"]


async def test_all_go_back_and_leave_nothing(database: asyncpg.Connection, database_url: str) -> None:
    owner = login(database_url, "owner")
    for name in reversed(NAMES):
        assert await undo(owner) == [name]
    assert await undo(owner) == []
    assert await contents(database) == {}
    left = await structure(database)
    assert {(kind, name) for kind, name, _ in left} == {("grant", "public")}


async def test_without_the_roles_the_migrations_run_all_the_same(template: str) -> None:
    """On a server of one's own user, as before there were roles: the grants are skipped, up and down."""
    # The roles are the server's and cannot be away here, so they are called by other names.
    renamed = [name for name in NAMES if "commerce_" in TEXTS[name]]
    assert renamed
    async with empty(template) as url, connected(url) as database:
        for name in NAMES:
            for text in (TEXTS[name], ROLLBACKS[name], TEXTS[name]):
                for statement in statements(text.replace("commerce_", "nobodys_")):
                    await database.execute(statement)
        grantees = "SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl) WHERE grantee::regrole::text LIKE 'comm%'"
        assert await database.fetch(f"{grantees} AND relnamespace = 'public'::regnamespace") == []


async def test_roles_that_come_later_get_their_grants(database: asyncpg.Connection, database_url: str) -> None:
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


# In the middle

BUILDING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND query LIKE '%CREATE INDEX CONCURRENTLY%'"
)


async def back_to(url: str, name: str) -> None:
    """Undo down to a migration, and that too."""
    while await undo(login(url, "owner")) != [name]:
        pass


@asynccontextmanager
async def migrating(settings: Settings, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m service migrate` as a process, which is killed if it is still there at the end."""
    given = {"DATABASE_URL": settings.database_url, "MIGRATE_DATABASE_URL": settings.migrate_database_url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "migrate"),
        env={**os.environ, **given},
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


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[str], str]:
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode().split(), errors.decode()


# Where it is stopped: at a lock of its own, or with everything done that is not yet marked as done.
HELD = {
    "at a lock": "LOCK TABLE products IN ROW EXCLUSIVE MODE",
    "before its mark": "LOCK TABLE _yoyo_migration IN EXCLUSIVE MODE",
}


@pytest.mark.parametrize("where", HELD)
async def test_one_that_was_killed_is_made_good_by_the_next(
    settings: Settings, database: asyncpg.Connection, database_url: str, tmp_path: Path, where: str
) -> None:
    whole = await structure(database)
    await back_to(database_url, "0004.stock_movements")
    async with database.transaction():
        await database.execute(HELD[where])
        async with migrating(settings, tmp_path) as killed:
            await waiting(database)
            killed.send_signal(signal.SIGKILL)
            assert await killed.wait() == -signal.SIGKILL
    async with migrating(settings, tmp_path) as process:
        status, applied, errors = await ended(process)
    assert (status, errors) == (0, "")
    assert applied == NAMES[NAMES.index("0004.stock_movements") :]
    assert await structure(database) == whole


async def test_one_that_was_killed_building_an_index_is_made_good_by_the_next(
    settings: Settings, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """The next one comes while what the killed one began is still going on in the server."""
    whole = await structure(database)
    await back_to(database_url, "0009.orders_by_cart")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('orders_by_cart')"
    async with connected(database_url) as slow, slow.transaction():
        # A transaction that has written before is waited for.
        await slow.execute("LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        async with migrating(settings, tmp_path) as killed:
            await waiting(database)
            pid = await database.fetchval(BUILDING)
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        assert await database.fetchval(valid) is False
        async with migrating(settings, tmp_path) as process:
            # The server notices that nobody is there any more, and only then is it another's turn.
            alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
            await eventually(lambda: database.fetchval(f"SELECT ({alive}) = 0", pid))
            await waiting(database)
            assert await database.fetchval(valid) is not True
            await slow.execute("ROLLBACK")
            status, applied, errors = await ended(process)
            await slow.execute("BEGIN")
    assert (status, errors) == (0, "")
    assert applied == NAMES[NAMES.index("0009.orders_by_cart") :]
    assert await structure(database) == whole


@pytest.mark.parametrize("name", ALONE)
async def test_while_an_index_is_built_nobody_waits_and_another_migrator_has_its_turn(template: str, name: str) -> None:
    async with cloned(template) as url, connected(url) as database, connected(url) as slow:
        await back_to(url, name)
        tables = set(await contents(database))
        (table,) = [table for _, _, table in INDEX.findall(" ".join(statements(TEXTS[name])))]
        async with slow.transaction():
            await slow.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
            first = asyncio.create_task(migrate(login(url, "owner")))
            await waiting(database)
            pid = await database.fetchval(BUILDING)
            locks = {tuple(lock) for lock in await database.fetch(LOCKS, pid, list(tables))}
            assert declared(name, tables) == locks == {(table, "ShareUpdateExclusiveLock")}
            async with connected(url, lock_timeout="1ms") as customer, customer.transaction():
                await customer.execute(f"SELECT FROM {table} FOR UPDATE")
                await customer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
            second = asyncio.create_task(migrate(login(url, "owner")))
            two = "SELECT count(*) >= 2 FROM pg_stat_activity WHERE application_name = 'commerce-migrate'"
            await eventually(lambda: database.fetchval(f"{two} AND datname = current_database()"))
        # Were the second to wait inside a statement, the first would wait for it, and they would be here for ever.
        assert await asyncio.wait_for(first, 30) == NAMES[NAMES.index(name) :]
        assert await asyncio.wait_for(second, 30) == []


async def test_a_lock_that_is_not_had_is_tried_for_again(
    database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """Each wait ends after lock_timeout, so that those who queue behind it are not kept for long."""
    (tmp_path / "0001.x.sql").write_text(
        "-- depends:\nSET LOCAL lock_timeout = '50ms';\nALTER TABLE products ADD COLUMN more integer;\n"
    )
    tries = "SELECT xact_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def tried_after(first: object) -> object:
        found = await database.fetchval(tries)
        return found if found != first else None

    async with connected(database_url) as slow, slow.transaction():
        await slow.execute("LOCK TABLE products IN ROW EXCLUSIVE MODE")
        with pytest.raises(ShopError, match=r"^busy: 0001\.x could not have its locks"):
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
    found = await database.fetchrow("SELECT to_regclass('made'), to_regclass('later')")
    assert tuple(found) == (None, None)
    (tmp_path / "0001.x.sql").write_text("-- depends: 0000.x\nCREATE TABLE made ();\n")
    assert await migrate(login(database_url, "owner"), tmp_path) == ["0001.x", "0002.x"]


# Beside customers

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


async def test_migrating_beside_customers_costs_none_of_them_a_request(
    shop: Shop, stripe: StripeStandin, resources: Resources, worker: None, database_url: str, tmp_path: Path
) -> None:
    """The code that runs is the old one, the schema is first the old, then the new, then the old one again."""
    for path in MIGRATIONS.glob("*.sql"):
        shutil.copy(path, tmp_path)
    last = NAMES[-1]
    for name, (text, rollback) in EXPAND.items():
        (tmp_path / f"{name}.sql").write_text(f"-- depends: {last}\n{text}\n")
        (tmp_path / f"{name}.rollback.sql").write_text(f"{rollback}\n")
        last = name
    products = [(await shop.product(stock=1000))["id"] for _ in range(3)]
    answers: list[tuple[str, int]] = []
    bought = [0] * 4
    closing = asyncio.Event()

    async def ask(method: str, path: str, json: object = None) -> dict[str, object]:
        answer = await shop.http.request(method, path, json=json)
        answers.append((f"{method} {path}", answer.status_code))
        return dict(answer.json())

    async def customer(number: int) -> None:
        while not closing.is_set():
            cart = (await ask("POST", "/carts"))["id"]
            for product in products:
                await ask("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
            placed = await ask("POST", f"/carts/{cart}/checkout")
            if number:
                stripe.pay(placed["payment"]["stripe_session_id"])  # type: ignore[index]
            else:
                await ask("POST", f"/orders/{placed['order_id']}/cancel")
            await ask("GET", f"/orders/{placed['order_id']}")
            await ask("GET", "/orders")
            bought[number] += 1

    async def all_buy() -> None:
        """Everybody buys once more from now on."""
        goal = [count + 2 for count in bought]

        async def reached() -> bool:
            return all(count >= least for count, least in zip(bought, goal, strict=True))

        await eventually(reached, 60)

    owner = login(database_url, "owner")
    customers = [asyncio.create_task(customer(number)) for number in range(len(bought))]
    await all_buy()
    async with connected(database_url) as slow:
        # The building of the index waits for a report that was begun before; nobody else does.
        await slow.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await slow.execute("SELECT count(*) FROM products")
        changing = asyncio.create_task(migrate(owner, tmp_path))
        await waiting(slow)
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
        left = "SELECT count(*) = 0 FROM orders WHERE next_attempt_at IS NOT NULL"
        return bool(await resources.pool.fetchval(left)) and not any(e["pending_webhooks"] for e in stripe.events)

    await eventually(finished)
    assert await resources.pool.fetchval("SELECT count(*) FROM orders WHERE status = 'FULFILLED'") == sum(bought[1:])
    await balance(resources, stripe)
