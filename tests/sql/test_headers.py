"""What a header says of locks, waiting, guards, rows and answers is what the server does with the statement.

`caller`, `param` and the columns are proved in test_statements.py, `index` in test_plans.py. Each failure says what is
true, in the form in which the header is to say it.
"""

import importlib
import re
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from service.errors import CONSTRAINTS
from service.infra.db import shop_error
from service.infra.statements import SQL, Statement, files
from tests.sql import headers
from tests.sql.explain import nodes
from tests.sql.headers import body, conflict, said
from tests.sql.locks import AGAINST, held, seen, transaction
from tests.sql.scenarios import SCENARIOS, Run, Scenario

# One pair of connections for all, as connecting takes as long as most of these.
pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY = pytest.mark.parametrize("name", files())


def scenario(name: str) -> Scenario:
    assert name in SCENARIOS, (
        f"sql/{name}.sql has no scenario: say in SCENARIOS of tests/sql/scenarios.py how it is run"
    )
    return SCENARIOS[name]


def sql(name: str) -> str:
    return Statement(name).sql


def runs(name: str) -> list[Run]:
    """All that are not refused."""
    tried = scenario(name)
    return [*tried.does, *([tried.none] if tried.none else [])]


@EVERY
async def test_locks(name: str, runner: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
    truth = await seen(runner, watcher, name, scenario(name).does)
    assert said(name, "locks") == truth.line, f"sql/{name}.sql should say:\n-- locks    {truth.line}"
    # A table that is written is locked ROW EXCLUSIVE; one with rows that are only locked, or that could refer to a
    # deleted one, ROW SHARE.
    modes = {lock.table: "RowShareLock" for lock in headers.locks(name)}
    for table in await written(runner, name, "Delete"):
        modes |= await referring(watcher, table)
    modes |= dict.fromkeys(await written(runner, name, "Insert", "Update", "Delete"), "RowExclusiveLock")
    assert truth.modes == modes, "the tables that it locks are not explained by the rows that it locks and writes"


async def referring(connection: asyncpg.Connection, table: str) -> dict[str, str]:
    """How the tables with a foreign key to this one are locked when a row of it is deleted."""
    found = await connection.fetch(
        "SELECT conrelid::regclass::text, CASE confdeltype WHEN 'c' THEN 'RowExclusiveLock' ELSE 'RowShareLock' END"
        " FROM pg_constraint WHERE confrelid = $1::text::regclass",
        table,
    )
    return {referring: mode for referring, mode in found}


@EVERY
async def test_waits(name: str, runner: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
    tried, (said_on, holder) = scenario(name), headers.waits(name)
    assert bool(tried.held) == bool(holder), f"sql/{name}.sql: `waits` names who holds its rows, `held` its arguments"
    skipped = {lock.table for lock in headers.locks(name) if lock.order == "SKIP LOCKED"}
    on: dict[str, list[str]] = {}
    for run in tried.does:
        async with transaction(runner):
            await runner.fetch(sql(holder), *tried.held) if holder else None
            had = await held(watcher, runner)
            await runner.fetch(sql(name), *run.arguments)
            has = await held(watcher, runner)
        for (table, place), strength in has.items():
            before = had.get((table, place))
            others = headers.in_the_way(name, table, strength, before) if strength != before else []
            if others and table not in skipped:
                on[table] = others
                async with transaction(watcher):
                    await watcher.execute(f"SELECT FROM {table} WHERE ctid = '{place}' FOR {AGAINST[strength]}")
                    assert await ends_busy(runner, name, run, holder, tried.held), f"rows of {table} are not waited for"
        # A new row waits for one with the same key, where no row that is there already keeps the two apart.
        met = holder or any(conflict(strength, strength) for strength in has.values())
        if not met and "the id is new" not in said(name, "waits"):
            async with transaction(watcher):
                await watcher.fetch(sql(name), *run.arguments)
                if await ends_busy(runner, name, run, holder, tried.held):
                    on[(await written(runner, name, "Insert") or ["advisory"])[0]] = [name]
    assert set(said_on) == set(on), f"sql/{name}.sql waits on {', '.join(on) or 'nothing'}" + "".join(
        f"; {table} is locked by {', '.join(others)}" for table, others in on.items()
    )
    assert (said(name, "waits") == "none") == (said(name, "locks") == "none"), "what locks nothing, waits for none"


async def test_the_lock_map_is_what_the_headers_say() -> None:
    lockers: dict[str, dict[str, list[str]]] = {}
    for name in files():
        for lock in headers.locks(name):
            lockers.setdefault(lock.table, {}).setdefault(lock.strength, []).append(f"`{name}`")
    # None takes SHARE.
    strengths = ("KEY SHARE", "NO KEY UPDATE", "UPDATE")
    lines = [" | ".join(["| rows of", *strengths, ""]).strip(), "| --- " * 4 + "|"]
    for table in dict.fromkeys(["carts", "orders", "payments", "products", *sorted(lockers)]):
        cells = [", ".join(lockers[table].pop(strength, [])) for strength in strengths]
        lines.append(" | ".join([f"| `{table}`", *cells, ""]).strip())
    lock_map = "\n".join(lines)
    assert lock_map in (SQL / "README.md").read_text(), f"sql/README.md should have under Locks:\n{lock_map}"
    assert not any(lockers.values())


async def ends_busy(
    runner: asyncpg.Connection, name: str, run: Run, holder: str | None, held_arguments: tuple[Any, ...]
) -> bool:
    """Whether the statement waits now, and its wait ends as 55P03 and becomes `busy`."""
    async with transaction(runner):
        await runner.fetch(sql(holder), *held_arguments) if holder else None
        await runner.execute("SET LOCAL lock_timeout = '10ms'")
        try:
            await runner.fetch(sql(name), *run.arguments)
        except asyncpg.LockNotAvailableError as error:
            return shop_error(error).code == "busy"
    return False


async def written(connection: asyncpg.Connection, name: str, *operations: str) -> list[str]:
    """The tables that a statement writes in these ways, by its plan."""
    plan = await nodes(connection, name)
    return [node["Relation Name"] for node in plan if node.get("Operation") in operations]


WRITES = re.compile(
    r"INSERT INTO (?P<insert>\w+) \((?P<given>[^)]*)\)"
    r"|UPDATE (?P<update>\w+)\s+SET(?P<set>.*?)(?=\n\s*(?:FROM|WHERE|RETURNING)\b|\Z)"
    r"|DO UPDATE\s+SET(?P<upsert>.*?)(?=\n\s*(?:WHERE|RETURNING)\b|\Z)"
    r"|DELETE FROM (?P<delete>\w+)",
    re.DOTALL,
)


@dataclass(slots=True)
class Write:
    """What a statement does to a table: which columns it gives to new rows or sets in old ones."""

    operation: str
    table: str
    columns: set[str]


def writes(name: str) -> list[Write]:
    """All that the text does."""
    found: list[Write] = []
    for match in WRITES.finditer(body(name)):
        sets = set(re.findall(r"(?:^|\n)\s*(\w+) = ", match["set"] or match["upsert"] or ""))
        if match["insert"]:
            found.append(Write("Insert", match["insert"], set(re.split(r",\s*", match["given"].strip()))))
        elif match["upsert"]:
            found.append(Write("Upsert", found[-1].table, sets))
        else:
            found.append(Write("Update" if match["update"] else "Delete", match["update"] or match["delete"], sets))
    return found


@EVERY
async def test_guards(name: str, runner: asyncpg.Connection) -> None:
    refused = scenario(name).refused
    for constraint, run in refused.items():
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as error:
            await perform(runner, name, run)
        assert error.value.constraint_name == constraint
        assert shop_error(error.value).code == CONSTRAINTS[constraint][0]
    watching = await guards(runner, name)
    assert set(refused) <= watching
    truth = [f"{'' if c in refused else 'never '}{c} -> {CONSTRAINTS[c][0]}" for c in sorted(watching)]
    assert sorted(said(name, "guards").split(", ")) == sorted(truth or ["none"]), (
        f"sql/{name}.sql should say:\n-- guards   {', '.join(truth) or 'none'}\nwhere `never` is to go, when a run that"
        " is refused can be given in SCENARIOS"
    )


async def test_every_mapped_constraint_is_some_statements_guard() -> None:
    assert {constraint for name in files() for part in headers.guards(name) for constraint in part} == set(CONSTRAINTS)


async def guards(connection: asyncpg.Connection, name: str) -> set[str]:
    """The constraints with a code that watch what a statement writes.

    A new row is watched by those of whose columns it is given every one, or it could not be the reason; not by the
    key that ON CONFLICT names. A changed row is watched by those that look at a changed column. A deleted row, and
    the changed key of one, by foreign keys that refer to it.
    """
    plan = await nodes(connection, name)
    arbiters = {arbiter for node in plan for arbiter in node.get("Conflict Arbiter Indexes", [])}
    done = writes(name)
    planned = [(node["Operation"], node["Relation Name"]) for node in plan if "Operation" in node]
    assert sorted(planned) == sorted((w.operation, w.table) for w in done if w.operation != "Upsert"), "not understood"
    found = set()
    for guard in await connection.fetch(MAPPED, list(CONSTRAINTS)):
        for write in done:
            new = write.operation == "Insert" and write.columns >= {*guard["columns"]} and guard["name"] not in arbiters
            changed = write.operation in ("Update", "Upsert") and write.columns & {*guard["columns"], *guard["more"]}
            left = write.operation == "Delete" or write.columns & {*guard["parent_columns"]}
            if (write.table == guard["table"] and (new or changed)) or (write.table == guard["parent"] and left):
                found.add(guard["name"])
    return found


# The constraints and unique indexes of these names: their columns, those of a partial index's condition, and what a
# foreign key refers to.
MAPPED = """
SELECT
    conname AS name,
    conrelid::regclass::text AS "table",
    ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey)) AS columns,
    '{}'::text[] AS more,
    CASE contype WHEN 'f' THEN confrelid::regclass::text END AS parent,
    ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = confrelid AND attnum = ANY(confkey)) AS parent_columns
FROM pg_constraint
WHERE conname = ANY($1)
UNION ALL
SELECT
    relname,
    indrelid::regclass::text,
    ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey)),
    ARRAY(
        SELECT attname::text FROM pg_depend INNER JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
        WHERE objid = indexrelid AND refobjid = indrelid AND attnum <> ALL(indkey)
    ),
    NULL,
    '{}'
FROM pg_index
INNER JOIN pg_class ON pg_class.oid = indexrelid
WHERE indisunique AND relname = ANY($1) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


@EVERY
async def test_returns(name: str, runner: asyncpg.Connection) -> None:
    tried = scenario(name)
    counts = [len(await perform(runner, name, run)) for run in tried.does]
    if not (await runner.prepare(sql(name))).get_attributes():
        truth = "none"
    elif max(counts) > 1:
        order = re.search(r"^ORDER BY\s+(.+?)(?=\nLIMIT|\Z)", body(name), re.MULTILINE | re.DOTALL)
        truth = f"many by {re.sub(r'[a-z_]+[.]', '', ' '.join(order[1].split()))}" if order else "many in no order"
    else:
        assert set(counts) == {1}, "a scenario's runs answer rows"
        truth = "one or none" if tried.none else "one"
    value, _, meaning = said(name, "returns").partition("; ")
    assert value.replace(" descending", " DESC") == truth, f"sql/{name}.sql: -- returns  {truth}"
    if tried.none and truth != "none":
        assert await perform(runner, name, tried.none) == []
        assert "none = " in meaning, f"sql/{name}.sql: returns is to say what `none` means"
    else:
        assert "none = " not in meaning, f"sql/{name}.sql: no run in SCENARIOS finds nothing"


@EVERY
async def test_rows(name: str, runner: asyncpg.Connection) -> None:
    value = said(name, "rows")
    form = re.fullmatch(r"(\d+)(?:\.\.(\d+|n))?(?: by (LIMIT(?: \$\d)?|[\w.]+(?: \+ 1)?))?(?:, usually \d+)?", value)
    assert form, f"sql/{name}.sql: rows is not of the form that sql/README.md gives: {value}"
    low, high, by = int(form[1]), form[2] or form[1], form[3]
    counts = [await count(runner, name, run) for run in runs(name)]
    assert low == min(min(counts), 1), f"sql/{name}.sql touches {min(counts)} rows"
    if high == "n":
        assert by is None
        assert "LIMIT" not in body(name)
        return
    assert max(counts) <= int(high), f"sql/{name}.sql touches {max(counts)} rows"
    assert (by is None) == (int(high) == 1), f"sql/{name}.sql: rows is to say what keeps them to {high}, or `n`"
    if by == "LIMIT":
        assert body(name).endswith(f"LIMIT {high}")
    elif by and by.startswith("LIMIT"):
        assert by in body(name)
    elif by:
        module, _, constant = by.removesuffix(" + 1").rpartition(".")
        bound = getattr(importlib.import_module(module), constant) + by.endswith(" + 1")
        assert int(high) == bound, f"sql/{name}.sql touches up to {bound} rows by {by}"
    for parameter in headers.header(name).get("param", []):
        assert not parameter.endswith(" limit bigint") or f"LIMIT {parameter.split()[0]}" in body(name)


async def perform(connection: asyncpg.Connection, name: str, run: Run) -> list[asyncpg.Record]:
    """What a run answers; nothing of it stays."""
    async with transaction(connection):
        await connection.execute(run.before or "SELECT")
        return await connection.fetch(sql(name), *run.arguments)


async def count(connection: asyncpg.Connection, name: str, run: Run) -> int:
    """How many rows a run answers or writes."""
    async with transaction(connection):
        await connection.execute(run.before or "SELECT")
        status = await connection.execute(sql(name), *run.arguments)
        return int(status.rpartition(" ")[2])
