"""Deadlocks: every statement that locks existing rows, beside any other that locks the same rows.

The schedules are made from the headers and the scenarios, so a new statement is tested without being named here. All
have the same form, in which a statement that locks a row and then updates it again has deadlocked:

1. One session has a KEY SHARE lock on the rows, as a foreign key's check takes it, and stays open.
2. Another updates the rows and stays open.
3. More sessions come for the rows, in some order, and wait.
4. The second session commits. Each of the others has to get its locks, without a deadlock, and rolls back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import permutations

import asyncpg
import pytest
import pytest_asyncio

from service.infra.statements import Statement, files
from tests.conftest import cloned
from tests.sql import headers
from tests.sql.explain import Node, root, walk
from tests.sql.headers import STRENGTHS, conflict
from tests.sql.locks import locked_rows, run_predecessors, transaction
from tests.sql.scenarios import SCENARIOS, SEED, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = 6
LOCKING = [name for name in files() if headers.locks(name)]
# Of the tables that statements lock, those that foreign keys refer to.
REFERENCED = "SELECT DISTINCT confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
# The columns of a table's key, and a column that an update may set.
KEY = """
SELECT string_agg(quote_ident(attname), ', ')
FROM (
    SELECT indkey FROM pg_index WHERE indrelid = $1::text::regclass AND indisunique ORDER BY NOT indisprimary LIMIT 1
) AS identity INNER JOIN pg_attribute ON attrelid = $1::text::regclass AND attnum = ANY(indkey)"""
COLUMN = """
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = ''
ORDER BY attnum DESC LIMIT 1"""

# Rows of the first table are locked only under the lock of the row of the second that they belong to.
BELONGS_TO = {"cart_items": "carts"}

Rows = dict[tuple[str, str], str]  # a table and a row's key -> the strength of the lock
Step = Callable[[asyncpg.Connection], Awaitable[object]]


@dataclass
class Locker:
    """A statement with the arguments of one run, and the rows that it locks, by itself and with its predecessors."""

    name: str
    run: Run
    own: Rows
    rows: Rows

    async def __call__(self, connection: asyncpg.Connection) -> None:
        await run_predecessors(connection, self.name)
        await connection.fetch(Statement(self.name).sql, *self.run.arguments)


class Stage:
    """Sessions in a small shop, the lockers of all statements, and the keys of the tables."""

    def __init__(self, sessions: list[asyncpg.Connection]) -> None:
        self.sharer, self.changer, *self.waiters = sessions
        self.keys: dict[str, tuple[str, str]] = {}
        self.referenced: set[str] = set()
        self.lockers: dict[str, list[Locker]] = {}

    async def open(self) -> None:
        self.referenced = {table for (table,) in await self.sharer.fetch(REFERENCED)}
        for name in LOCKING:
            self.lockers[name] = [
                Locker(name, run, await self.rows_of(name, run), rows)
                for run in SCENARIOS[name].does
                if (rows := await self.rows_of(name, run, predecessors=True))
            ]

    async def rows_of(self, name: str, run: Run, *, predecessors: bool = False) -> Rows:
        """The existing rows that a run locks, with those of its predecessors or without."""
        rows: Rows = {}
        async with transaction(self.changer):
            if predecessors:
                await run_predecessors(self.changer, name)
            await self.changer.fetch(Statement(name).sql, *run.arguments)
            for (table, place), strength in (await locked_rows(self.sharer, self.changer)).items():
                if table not in self.keys:
                    self.keys[table] = (
                        await self.sharer.fetchval(KEY, table),
                        await self.sharer.fetchval(COLUMN, table),
                    )
                query = f"SELECT ({self.keys[table][0]})::text FROM {table} WHERE ctid = $1"
                # A row that the run has inserted is not there for others.
                if key := await self.sharer.fetchval(query, place):
                    rows[table, key] = strength
        return rows

    def locker_of(self, table: str, keys: Sequence[str]) -> Step:
        """Any other statement that locks these rows in the order of their keys."""
        columns = self.keys[table][0]
        return lambda connection: connection.fetch(
            f"SELECT FROM {table} WHERE ({columns})::text = ANY($1) ORDER BY {columns} FOR NO KEY UPDATE", keys
        )

    async def run(self, table: str, keys: Sequence[str], shared: Rows, steps: Sequence[Step]) -> list[object]:
        """The schedule of this module's docstring; the errors of the sessions that come in step 3."""
        columns, column = self.keys[table]
        rows = f"{table} WHERE ({columns})::text = ANY($1)"
        running: list[asyncio.Task[object]] = []
        async with transaction(self.sharer):
            for (other, key), strength in shared.items():
                if other in self.referenced and not conflict(strength, "KEY SHARE"):
                    query = f"SELECT FROM {other} WHERE ({self.keys[other][0]})::text = $1 FOR KEY SHARE"
                    await self.sharer.fetch(query, key)
            await self.changer.execute("BEGIN")
            await self.changer.execute(f"UPDATE {rows.replace(' WHERE', f' SET {column} = {column} WHERE')}", keys)
            for session, step in zip(self.waiters, steps, strict=False):
                running.append(asyncio.create_task(run_and_roll_back(session, step)))
                await self.wait_or_end(session, running[-1])
            await self.changer.execute("COMMIT")
            return list(await asyncio.gather(*running, return_exceptions=True))

    async def wait_or_end(self, session: asyncpg.Connection, running: "asyncio.Task[object]") -> None:
        """Return once a session waits for a lock, or has ended."""
        query = "SELECT cardinality(pg_blocking_pids($1)) > 0"
        while not running.done() and not await self.sharer.fetchval(query, session.get_server_pid()):
            await asyncio.wait({running}, timeout=0.001)


async def run_and_roll_back(session: asyncpg.Connection, step: Step) -> None:
    async with transaction(session):
        await step(session)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str) -> AsyncIterator[Stage]:
    """A database of its own, because the second session commits; at the end the server has counted no deadlock."""
    async with cloned(template) as url:
        async with AsyncExitStack() as stack:
            sessions = []
            for _ in range(SESSIONS):
                sessions.append(await asyncpg.connect(url))
                stack.push_async_callback(sessions[-1].close)
                await sessions[-1].execute("SET deadlock_timeout = '20ms'; SET lock_timeout = '10s'")
            await sessions[0].execute(SEED)
            await sessions[0].execute("CREATE EXTENSION pgrowlocks")
            stage = Stage(sessions)
            await stage.open()
            yield stage
        database = await asyncpg.connect(url)
        deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        await database.close()
    assert deadlocks == 0


@pytest.mark.parametrize("name", LOCKING)
async def test_a_row_that_a_statement_has_locked_is_changed_by_place(name: str, stage: Stage) -> None:
    # Where no foreign key refers to a table, nobody takes KEY SHARE of its rows, and finding them by key is safe.
    nodes = [*walk(await root(stage.sharer, name))]
    locked = {below.get("Relation Name") for node in nodes if node["Node Type"] == "LockRows" for below in walk(node)}

    for node in nodes:
        if node.get("Operation") in ("Update", "Delete") and node["Relation Name"] in locked & stage.referenced:
            scans = [below for below in changed_rows(node) if below.get("Relation Name") == node["Relation Name"]]
            # Small tables are read whole, with the place as a filter.
            assert all("ctid = ANY" in scan.get("TID Cond", scan.get("Filter", "")) for scan in scans), (
                f"sql/{name}.sql locks rows of {node['Relation Name']} and finds them again by key. Lock them in a"
                " statement before it, change them without a lock, or find them by ctid."
            )


def changed_rows(change: Node) -> Iterator[Node]:
    """The nodes below an UPDATE or DELETE that find its rows, without those that only compute a value for it."""
    for child in change.get("Plans", []):
        if child.get("Parent Relationship") not in ("InitPlan", "SubPlan"):
            yield child
            yield from changed_rows(child)


@pytest.mark.parametrize("name", LOCKING)
async def test_a_statement_does_not_deadlock_with_any_others(name: str, stage: Stage) -> None:
    """It comes first or second of three; the others lock all of its rows in a table, by key.

    Rows that a statement locks in no order are left out if, by its header, it has locked the row that they belong to,
    or locks it before them.
    """
    lockers = stage.lockers[name]
    assert lockers, f"sql/{name}.sql: no run in SCENARIOS locks an existing row"
    predecessor = headers.waits(name).predecessor
    tables = {lock.table for lock in headers.locks(name)}
    unordered = {
        lock.table
        for lock in headers.locks(name)
        if lock.order == "in no order" and (predecessor or BELONGS_TO.get(lock.table) in tables)
    }

    for locker in lockers:
        for table, keys in by_table(locker.own, at_least="NO KEY UPDATE").items():
            for position in range(2 if table not in unordered else 0):
                others: list[Step] = [stage.locker_of(table, keys)] * 3
                steps = [*others[:position], locker, *others[position:2]]
                assert await stage.run(table, keys, locker.rows, steps) == [None] * 3, (locker.run, table, position)


@pytest.mark.parametrize("name", LOCKING)
async def test_two_statements_do_not_deadlock(name: str, stage: Stage, pytestconfig: pytest.Config) -> None:
    """Each pair of statements that lock a row in conflict, in both orders; with --all-schedules, with a third."""
    everything = pytestconfig.getoption("--all-schedules", False)
    for first in stage.lockers[name]:
        for other in LOCKING:
            for second in stage.lockers[other]:
                if other < name:
                    continue  # That pair was the other way round.
                for table, keys in by_table(conflicts(first.rows, second.rows), at_least="KEY SHARE").items():
                    shared = strongest(first.rows, second.rows)
                    third = [stage.locker_of(table, keys)] if everything else []
                    for steps in permutations([first, second, *third]):
                        errors = await stage.run(table, keys, shared, steps)
                        assert not any(errors), (first.run, other, second.run, table)


def conflicts(one: Rows, other: Rows) -> Rows:
    """The rows that both lock, in conflict, with the strength of the first."""
    return {row: one[row] for row in one.keys() & other.keys() if conflict(one[row], other[row])}


def strongest(one: Rows, other: Rows) -> Rows:
    """The rows that either locks, with the stronger of the two strengths."""
    return {row: max(one.get(row, ""), other.get(row, ""), key=["", *STRENGTHS].index) for row in one | other}


def by_table(rows: Rows, at_least: str) -> dict[str, list[str]]:
    """The keys of the rows of each table that are locked with this strength or a stronger one."""
    result: dict[str, list[str]] = {}
    for (table, key), strength in rows.items():
        if STRENGTHS.index(strength) >= STRENGTHS.index(at_least):
            result.setdefault(table, []).append(key)
    return result
