"""What a statement locks and in which order, as it is seen from a second connection while it stands still."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg

from service.infra.statements import Statement
from tests.sql.explain import nodes
from tests.sql.headers import STRENGTHS, Lock
from tests.sql.scenarios import Run

# The weakest lock that stands in the way of each.
AGAINST = dict(zip(STRENGTHS, reversed(STRENGTHS), strict=True))

Row = tuple[str, Any]  # a table, and where in it the row lies (ctid)


class Seen(NamedTuple):
    """What was seen of a statement: its `locks`, as a header says it, and the mode of each table."""

    line: str
    modes: dict[str, str]


async def seen(runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, runs: Sequence[Run]) -> Seen:
    """Run a statement and say what it locked, one line for all its runs."""
    taken: list[list[Lock]] = []
    modes: dict[str, str] = {}
    advisory: dict[str, str] = {}
    for run in runs:
        async with transaction(runner):
            await runner.fetch(Statement(name).sql, *run.arguments)
            rows = await held(watcher, runner)
            for table, mode in (await table_modes(watcher, runner)).items():
                modes[table] = "RowExclusiveLock" if "RowExclusiveLock" in (mode, modes.get(table)) else mode
            keys = await advisory_keys(watcher, runner)
            await runner.execute("ROLLBACK; BEGIN")
            after = await advisory_keys(watcher, runner)
        for key in keys:
            shown = f"${run.arguments.index(key) + 1}" if key in run.arguments else str(key)
            advisory[shown] = "session end" if key in after else "commit"
        # Which rows it had when it came to each; None where it went past.
        before = {row: await held_at(runner, watcher, name, run, row, rows[row]) for row in rows}
        taken.append([])
        for table in sorted({table for table, _ in rows}, key=lambda table: (_earlier(before, table), table)):
            own = [row for row in rows if row[0] == table]
            strongest = max((rows[row] for row in own), key=STRENGTHS.index)
            taken[-1].append(Lock(table, strongest, await _order(watcher, own, before)))
    new = [node["Relation Name"] for node in await nodes(runner, name) if node.get("Operation") == "Insert"]
    return Seen(_line(taken, new, advisory), modes)


def _line(taken: list[list[Lock]], new: list[str], advisory: dict[str, str]) -> str:
    """`locks` as a header says it: of the rows that each run locked, the tables with new ones, the advisory locks."""
    # The run that locks most tables shows best in which order.
    locks: dict[str, Lock] = {}
    for lock in (lock for locked in sorted(taken, key=len, reverse=True) for lock in locked):
        known = locks.get(lock.table, lock)
        strongest = max(known.strength, lock.strength, key=STRENGTHS.index)
        locks[lock.table] = Lock(lock.table, strongest, known.order or lock.order)
    resources = []
    for how, alike in groupby(locks.values(), key=lambda lock: f"{lock.strength} {lock.order}".strip()):
        resources.append(f"{', '.join(lock.table for lock in alike)} {how}")
    if new:
        resources.append(f"new {', '.join(dict.fromkeys(new))}")
    resources += [f"advisory {key}" for key in advisory]
    return "; ".join([*resources, f"to {next(iter(advisory.values()), 'commit')}"]) if resources else "none"


async def held(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> dict[Row, str]:
    """The rows that a connection has locked, and how strongly."""
    pid = runner.get_server_pid()
    tables = await watcher.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    looks = (f"SELECT '{table}', locked_row, modes, pids FROM pgrowlocks('{table}')" for (table,) in tables)
    found: dict[Row, str] = {}
    for table, row, modes, pids in await watcher.fetch(" UNION ALL ".join(looks)):
        own = [mode.removeprefix("For ").upper() for mode, of in zip(modes, pids, strict=True) if of == pid]
        if own:
            found[table, row] = max(own, key=STRENGTHS.index)
    return found


async def held_at(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, run: Run, row: Row, strength: str
) -> set[Row] | None:
    """The rows that a statement has when it comes to one that it cannot get; None when it goes past."""
    table, place = row
    async with transaction(runner):
        async with transaction(watcher):
            await watcher.execute(f"SELECT FROM {table} WHERE ctid = '{place}' FOR {AGAINST[strength]}")
            running = asyncio.create_task(runner.fetch(Statement(name).sql, *run.arguments))
            stands = await waits(runner, watcher, running)
            found = set(await held(watcher, runner)) if stands else None
        await running
    return found


async def waits(runner: asyncpg.Connection, watcher: asyncpg.Connection, running: "asyncio.Task[Any]") -> bool:
    """Whether a running statement comes to wait for the watcher, rather than to its end."""
    blocking = "SELECT $1 = ANY(pg_blocking_pids($2))"
    while not running.done():
        if await watcher.fetchval(blocking, watcher.get_server_pid(), runner.get_server_pid()):
            return True
    return False


@asynccontextmanager
async def transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that leaves nothing behind."""
    await connection.execute("BEGIN")
    try:
        yield
    finally:
        await connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")


async def table_modes(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> dict[str, str]:
    """The strongest mode in which a connection has each table locked, but for those that it only reads."""
    modes = await watcher.fetch(
        "SELECT relname, array_agg(mode) FROM pg_locks INNER JOIN pg_class ON relation = pg_class.oid"
        " WHERE pid = $1 AND relkind = 'r' AND relnamespace = 'public'::regnamespace GROUP BY relname",
        runner.get_server_pid(),
    )
    strongest = {table: "RowExclusiveLock" if "RowExclusiveLock" in taken else max(taken) for table, taken in modes}
    return {table: mode for table, mode in strongest.items() if mode != "AccessShareLock"}


async def advisory_keys(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> list[int]:
    keys = await watcher.fetch(
        "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = $1",
        runner.get_server_pid(),
    )
    return [key for (key,) in keys]


def _earlier(before: dict[Row, set[Row] | None], table: str) -> int:
    """How many other tables' rows were there before the first of this table."""
    return min(len({t for t, _ in rows or () if t != table}) for (of, _), rows in before.items() if of == table)


async def _order(watcher: asyncpg.Connection, own: list[Row], before: dict[Row, set[Row] | None]) -> str:
    """In which order the rows of one table were locked, as a header says it."""
    if any(before[row] is None for row in own):
        return "SKIP LOCKED"
    if len(own) < 2:
        return ""
    table = own[0][0]
    column = await watcher.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_index INNER JOIN pg_attribute"
        " ON attrelid = indrelid AND attnum = ANY(indkey) WHERE indrelid = $1::text::regclass AND indisprimary",
        table,
    )
    places = await watcher.fetch(f"SELECT ctid FROM {table} ORDER BY {column}")
    sorted_rows = [(table, place) for (place,) in places if (table, place) in own]
    for position, row in enumerate(sorted_rows):
        if {other for other in before[row] or () if other[0] == table} != set(sorted_rows[:position]):
            return "in no order"
    return f"by {column}"
