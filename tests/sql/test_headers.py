"""Proves what headers say of locks, waits, guards, returned rows and row counts against the server.

test_statements.py proves `callers`, `param` and the columns; test_plans.py proves `index`. A failure prints the line
that the header should have.
"""

import importlib
import re
from dataclasses import dataclass

import asyncpg
import pytest

from service.errors import CONSTRAINTS
from service.infra.db_errors import shop_error
from service.infra.statements import Statement, files
from tests.sql import headers
from tests.sql.explain import nodes
from tests.sql.headers import README, body, conflict, value_of
from tests.sql.locks import WEAKEST_CONFLICT, Row, locked_rows, observe_locks, run_predecessors, transaction
from tests.sql.scenarios import SCENARIOS, Run, Scenario

# All tests share two connections, because connecting takes as long as most of the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY = pytest.mark.parametrize("name", files())


def scenario(name: str) -> Scenario:
    assert name in SCENARIOS, (
        f"sql/{name}.sql has no scenario: add its arguments to SCENARIOS in tests/sql/scenarios.py"
    )
    return SCENARIOS[name]


def sql(name: str) -> str:
    return Statement(name).sql


def successful_runs(name: str) -> list[Run]:
    """All runs that violate no guard."""
    return [*scenario(name).does, *([none] if (none := scenario(name).none) else [])]


@EVERY
async def test_locks(name: str, runner: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
    observed = await observe_locks(runner, watcher, name, scenario(name).does)

    assert value_of(name, "locks") == observed.line, f"sql/{name}.sql should have:\n-- locks    {observed.line}"
    expected = await expected_table_modes(name, runner, watcher)
    assert observed.table_modes == expected, "the header's rows and the plan's writes do not explain the table locks"


async def expected_table_modes(name: str, runner: asyncpg.Connection, watcher: asyncpg.Connection) -> dict[str, str]:
    """The table locks that follow from the header's rows and the plan's writes.

    A written table is locked ROW EXCLUSIVE. ROW SHARE is for a table whose rows are only locked, and for one that could
    refer to a deleted row.
    """
    modes = {lock.table: "RowShareLock" for lock in headers.locks(name)}
    for table in await written_tables(runner, name, "Delete"):
        modes |= await referring_table_modes(watcher, table)
    return modes | dict.fromkeys(await written_tables(runner, name, "Insert", "Update", "Delete"), "RowExclusiveLock")


async def referring_table_modes(connection: asyncpg.Connection, table: str) -> dict[str, str]:
    """How the tables with a foreign key to this one are locked when one of its rows is deleted."""
    rows = await connection.fetch(
        "SELECT conrelid::regclass::text, CASE confdeltype WHEN 'c' THEN 'RowExclusiveLock' ELSE 'RowShareLock' END"
        " FROM pg_constraint WHERE confrelid = $1::text::regclass",
        table,
    )
    return {referring: mode for referring, mode in rows}


@EVERY
async def test_waits(name: str, runner: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
    """`waits` names exactly the tables on whose rows the statement can wait, and every such wait ends as `busy`.

    Method, for each run of the scenario:
    1. Run the statement, and list the rows that it locks beyond those that its predecessor has locked.
    2. Keep each row on which the headers know a conflicting statement that does not queue at an earlier row.
    3. Lock such a row from a second connection, run the statement again, and see it end as `busy`.
    4. Run the statement in two transactions at once, to see whether it waits for a new row with the same key.
    5. Take its advisory lock from a second connection, too.
    The tables of steps 3 and 4, and `advisory` of step 5, must be those that the header names.
    """
    stated = headers.waits(name)
    assert bool(scenario(name).predecessor) == bool(stated.predecessor), (
        f"sql/{name}.sql: the scenario has arguments for a predecessor if and only if `waits` names one"
    )

    blockers: dict[str, list[str]] = {}  # a table on whose rows the statement waits -> the statements it waits for
    for run in scenario(name).does:
        before, locked = await rows_locked_by(runner, watcher, name, run)
        for row, strength in locked.items():
            if conflicting := conflicting_statements(name, row, strength, before.get(row)):
                blockers[row[0]] = conflicting
                assert await wait_at_row_ends_busy(runner, watcher, name, run, row, strength), f"no wait at {row[0]}"
        if may_meet_itself(name, locked) and await second_run_ends_busy(runner, watcher, name, run):
            blockers[(await written_tables(runner, name, "Insert") or ["advisory"])[0]] = [name]
        if key := re.search(r"advisory \$(\d+)", value_of(name, "locks")):
            async with transaction(watcher):
                await watcher.execute(f"SELECT pg_advisory_xact_lock({run.arguments[int(key[1]) - 1]})")
                if await ends_busy(runner, name, run):
                    blockers["advisory"] = [name]

    assert set(stated.on) == set(blockers), f"sql/{name}.sql waits on {', '.join(blockers) or 'nothing'}" + "".join(
        f"; {table} is locked by {', '.join(others)}" for table, others in blockers.items()
    )
    assert (value_of(name, "waits") == "none") == (value_of(name, "locks") == "none"), (
        f"sql/{name}.sql: a statement without locks has no waits, and the other way round"
    )


async def rows_locked_by(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, run: Run
) -> tuple[dict[Row, str], dict[Row, str]]:
    """The rows, with the strength of their locks, after the predecessor and after the statement itself."""
    async with transaction(runner):
        await run_predecessors(runner, name)
        before = await locked_rows(watcher, runner)
        await runner.fetch(sql(name), *run.arguments)
        return before, await locked_rows(watcher, runner)


def conflicting_statements(name: str, row: Row, strength: str, before: str | None) -> list[str]:
    """The statements that can make this one wait for a row. `before` is the lock that the predecessor has on it."""
    table, _ = row
    skipped = any(lock.table == table and lock.order == "SKIP LOCKED" for lock in headers.locks(name))
    if skipped or strength == before:
        return []
    return headers.conflicting_statements(name, table, strength, before)


async def wait_at_row_ends_busy(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, run: Run, row: Row, strength: str
) -> bool:
    """Whether the statement waits for a row that the watcher has locked, and the wait ends as `busy`."""
    table, place = row
    async with transaction(watcher):
        await watcher.execute(f"SELECT FROM {table} WHERE ctid = '{place}' FOR {WEAKEST_CONFLICT[strength]}")
        return await ends_busy(runner, name, run)


def may_meet_itself(name: str, locked: dict[Row, str]) -> bool:
    """Whether two runs at once lock no common row first, so that one may wait for the other's new row."""
    queued = headers.waits(name).predecessor or any(conflict(strength, strength) for strength in locked.values())
    return not queued and "the id is new" not in value_of(name, "waits")


async def second_run_ends_busy(runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, run: Run) -> bool:
    """Whether a second run waits while the watcher's transaction has run the same, and the wait ends as `busy`."""
    async with transaction(watcher):
        await watcher.fetch(sql(name), *run.arguments)
        return await ends_busy(runner, name, run)


async def ends_busy(runner: asyncpg.Connection, name: str, run: Run) -> bool:
    """Whether the statement, after its predecessor, fails with 55P03 and this becomes the error `busy`."""
    async with transaction(runner):
        await run_predecessors(runner, name)
        await runner.execute("SET LOCAL lock_timeout = '10ms'")
        try:
            await runner.fetch(sql(name), *run.arguments)
        except asyncpg.LockNotAvailableError as error:
            return shop_error(error).code == "busy"
    return False


async def test_the_lock_map_is_what_the_headers_say() -> None:
    assert headers.lock_map() in README.read_text(), "section Locks: `make stubs` writes it"


async def written_tables(connection: asyncpg.Connection, name: str, *operations: str) -> list[str]:
    """The tables that a statement writes by these operations, from its plan."""
    plan = await nodes(connection, name)
    return [node["Relation Name"] for node in plan if node.get("Operation") in operations]


WRITES = re.compile(
    r"INSERT INTO (?P<insert>\w+) \((?P<columns>[^)]*)\)"
    r"|UPDATE (?P<update>\w+)\s+SET(?P<set>.*?)(?=\n\s*(?:FROM|WHERE|RETURNING)\b|\Z)"
    r"|DO UPDATE\s+SET(?P<upsert>.*?)(?=\n\s*(?:WHERE|RETURNING)\b|\Z)"
    r"|DELETE FROM (?P<delete>\w+)",
    re.DOTALL,
)


@dataclass(slots=True)
class Write:
    """An operation on a table, with the columns that new rows get or that are set in existing rows."""

    operation: str
    table: str
    columns: set[str]


def writes(name: str) -> list[Write]:
    """All writes in the statement's text."""
    result: list[Write] = []
    for match in WRITES.finditer(body(name)):
        sets = set(re.findall(r"(?:^|\n)\s*(\w+) = ", match["set"] or match["upsert"] or ""))
        if match["insert"]:
            result.append(Write("Insert", match["insert"], set(re.split(r",\s*", match["columns"].strip()))))
        elif match["upsert"]:
            result.append(Write("Upsert", result[-1].table, sets))
        else:
            result.append(Write("Update" if match["update"] else "Delete", match["update"] or match["delete"], sets))
    return result


@EVERY
async def test_guards(name: str, runner: asyncpg.Connection) -> None:
    refused = scenario(name).refused
    for constraint, run in refused.items():
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as error:
            await perform(runner, name, run)
        assert error.value.constraint_name == constraint
        assert shop_error(error.value).code == CONSTRAINTS[constraint][0]
    checked = await checked_constraints(runner, name)
    assert set(refused) <= checked
    expected = [f"{'' if c in refused else 'never '}{c} -> {CONSTRAINTS[c][0]}" for c in sorted(checked)]
    assert sorted(value_of(name, "guards").split(", ")) == sorted(expected or ["none"]), (
        f"sql/{name}.sql should have:\n-- guards   {', '.join(expected) or 'none'}\n"
        "without `never` where SCENARIOS can have a run that the constraint refuses"
    )


async def test_every_mapped_constraint_is_some_statements_guard() -> None:
    assert {constraint for name in files() for part in headers.guards(name) for constraint in part} == set(CONSTRAINTS)


async def checked_constraints(connection: asyncpg.Connection, name: str) -> set[str]:
    """The constraints with an error code that PostgreSQL checks for what a statement writes.

    - A new row: those whose columns the statement sets all, except the key that ON CONFLICT names.
    - A changed row: those that read a changed column.
    - A deleted row, or one whose key changes: the foreign keys that refer to it.
    """
    plan = await nodes(connection, name)
    arbiters = {arbiter for node in plan for arbiter in node.get("Conflict Arbiter Indexes", [])}
    parsed = writes(name)
    planned = [(node["Operation"], node["Relation Name"]) for node in plan if "Operation" in node]
    assert sorted(planned) == sorted((w.operation, w.table) for w in parsed if w.operation != "Upsert"), (
        f"sql/{name}.sql: WRITES reads other operations from the text than the plan has"
    )

    result = set()
    for guard in await connection.fetch(MAPPED, list(CONSTRAINTS)):
        for write in parsed:
            new = write.operation == "Insert" and write.columns >= {*guard["columns"]} and guard["name"] not in arbiters
            changed = write.operation in ("Update", "Upsert") and write.columns & {*guard["columns"], *guard["more"]}
            removed = write.operation == "Delete" or write.columns & {*guard["parent_columns"]}
            if (write.table == guard["table"] and (new or changed)) or (write.table == guard["parent"] and removed):
                result.add(guard["name"])
    return result


# Constraints and unique indexes by name: their columns, the columns of a partial index's condition (more), and what a
# foreign key refers to (parent).
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
    none = scenario(name).none
    counts = [len(await perform(runner, name, run)) for run in scenario(name).does]
    if not (await runner.prepare(sql(name))).get_attributes():
        expected = "none"
    elif max(counts) > 1:
        order = re.search(r"^ORDER BY\s+(.+?)(?=\n(?:LIMIT|FETCH|FOR )|\Z)", body(name), re.MULTILINE | re.DOTALL)
        expected = f"many by {re.sub(r'[a-z_]+[.]', '', ' '.join(order[1].split()))}" if order else "many in no order"
    else:
        assert set(counts) == {1}, "a run under `does` returns rows"
        expected = "one or none" if none else "one"

    value, _, meaning = value_of(name, "returns").partition("; ")
    assert value.replace(" descending", " DESC") == expected, f"sql/{name}.sql should have:\n-- returns  {expected}"
    if none and expected != "none":
        assert await perform(runner, name, none) == []
        assert "none = " in meaning, f"sql/{name}.sql: `returns` has to say what no row means"
    else:
        assert "none = " not in meaning, f"sql/{name}.sql: no run in SCENARIOS returns no row"


@EVERY
async def test_rows(name: str, runner: asyncpg.Connection) -> None:
    value = value_of(name, "rows")
    form = re.fullmatch(r"(\d+)(?:\.\.(\d+|n))?(?: by (LIMIT(?: \$\d)?|[\w.]+(?: \+ 1)?))?(?:, usually \d+)?", value)
    assert form, f"sql/{name}.sql: `rows` does not follow the grammar in sql/README.md: {value}"
    low, high, by = int(form[1]), form[2] or form[1], form[3]
    counts = [await count_rows(runner, name, run) for run in successful_runs(name)]
    assert low == min(min(counts), 1), f"sql/{name}.sql touches {min(counts)} rows"
    if high == "n":
        assert by is None
        assert "LIMIT" not in body(name)
        return
    assert max(counts) <= int(high), f"sql/{name}.sql touches {max(counts)} rows"
    assert (by is None) == (int(high) == 1), (
        f"sql/{name}.sql: `rows` has to name what bounds them to {high}, or say `n`"
    )
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
    """The rows that a run returns; the transaction is rolled back."""
    async with transaction(connection):
        await connection.execute(run.before or "SELECT")
        return await connection.fetch(sql(name), *run.arguments)


async def count_rows(connection: asyncpg.Connection, name: str, run: Run) -> int:
    """How many rows a run returns or writes."""
    async with transaction(connection):
        await connection.execute(run.before or "SELECT")
        status = await connection.execute(sql(name), *run.arguments)
        return int(status.rpartition(" ")[2])
