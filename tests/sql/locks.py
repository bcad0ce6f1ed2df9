"""Observes from a second connection what a statement locks, and in which order.

The `runner` runs the statement in a transaction. The `watcher` reads the server's lock views, and locks a row itself
when the runner is to stop there.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg

from service.infra.statements import Statement
from tests.sql import headers
from tests.sql.explain import nodes
from tests.sql.headers import STRENGTHS, Lock
from tests.sql.scenarios import SCENARIOS, Run

# For each strength, the weakest lock that conflicts with it.
WEAKEST_CONFLICT = dict(zip(STRENGTHS, reversed(STRENGTHS), strict=True))

Row = tuple[str, Any]  # a table and the row's place in it (ctid)


class ObservedLocks(NamedTuple):
    """What a statement locked: the `locks` line that its header should have, and the mode of each locked table."""

    line: str
    table_modes: dict[str, str]


async def observe_locks(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, runs: Sequence[Run]
) -> ObservedLocks:
    """Run a statement as its scenario says; one header line covers all runs."""
    locks_by_run: list[list[Lock]] = []
    modes: dict[str, str] = {}
    advisory: dict[str, str] = {}
    ordered = bool(re.search(r"ORDER BY .+\n\s*FOR ", headers.body(name)))
    async with transaction(runner):
        await run_predecessors(runner, name)
        locked = await locked_rows(watcher, runner)
    for run in runs:
        async with transaction(runner):
            await runner.fetch(Statement(name).sql, *run.arguments)
            rows = await locked_rows(watcher, runner)
            for table, mode in (await table_modes(watcher, runner)).items():
                modes[table] = "RowExclusiveLock" if "RowExclusiveLock" in (mode, modes.get(table)) else mode
            keys = await advisory_keys(watcher, runner)
            await runner.execute("ROLLBACK; BEGIN")
            keys_after_rollback = await advisory_keys(watcher, runner)
        for key in keys:
            label = f"${run.arguments.index(key) + 1}" if key in run.arguments else str(key)
            advisory[label] = "session end" if key in keys_after_rollback else "commit"
        locked_before = {row: await rows_locked_before(runner, watcher, name, run, row, rows[row]) for row in rows}
        own = {row for row in rows if row not in locked or STRENGTHS.index(locked[row]) < STRENGTHS.index(rows[row])}
        locks_by_run.append(await _locks_by_table(watcher, rows, locked_before, own, ordered))
    new = [node["Relation Name"] for node in await nodes(runner, name) if node.get("Operation") == "Insert"]
    return ObservedLocks(_header_line(locks_by_run, new, advisory), modes)


async def _locks_by_table(
    watcher: asyncpg.Connection,
    rows: dict[Row, str],
    locked_before: dict[Row, set[Row] | None],
    own: set[Row],
    ordered: bool,
) -> list[Lock]:
    """The locks of one run, one for each table, in the order in which the statement came to the tables.

    `own` are the rows that no earlier statement of the transaction has locked: only their order matters. `ordered` says
    whether the statement's text has an order for its locks.
    """

    def tables_before(table: str) -> int:
        """How many other tables had locked rows before the first row of this one."""
        return min(
            len({other for other, _ in before or () if other != table})
            for (of, _), before in locked_before.items()
            if of == table
        )

    locks = []
    for table in sorted({table for table, _ in rows}, key=lambda table: (tables_before(table), table)):
        strongest = max((rows[row] for row in rows if row[0] == table), key=STRENGTHS.index)
        order = await _row_order(watcher, [row for row in rows if row in own and row[0] == table], locked_before)
        if order.startswith("by ") and not ordered:
            # Without ORDER BY before FOR UPDATE, nothing but this plan ensures the order.
            order = "in no order"
        locks.append(Lock(table, strongest, order))
    return locks


async def _row_order(watcher: asyncpg.Connection, own: list[Row], locked_before: dict[Row, set[Row] | None]) -> str:
    """The order in which the rows of one table were locked, in the words of a header."""
    if any(locked_before[row] is None for row in own):
        return "SKIP LOCKED"
    if len(own) < 2:
        return ""
    table = own[0][0]
    key = await watcher.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_index INNER JOIN pg_attribute"
        " ON attrelid = indrelid AND attnum = ANY(indkey) WHERE indrelid = $1::text::regclass AND indisprimary",
        table,
    )
    by_key = [(table, place) for (place,) in await watcher.fetch(f"SELECT ctid FROM {table} ORDER BY {key}")]
    by_key = [row for row in by_key if row in own]
    for position, row in enumerate(by_key):
        if {other for other in locked_before[row] or () if other[0] == table} != set(by_key[:position]):
            return "in no order"
    assert by_key != sorted(by_key), f"the rows of {table} lie in the order of their keys: shuffle them in SEED"
    return f"by {key}"


def _header_line(locks_by_run: list[list[Lock]], new: list[str], advisory: dict[str, str]) -> str:
    """The `locks` line: the rows that all runs locked, the tables with new rows, the advisory locks."""
    # The run that locks most tables shows their order best, so it comes first.
    locks: dict[str, Lock] = {}
    for lock in (lock for one_run in sorted(locks_by_run, key=len, reverse=True) for lock in one_run):
        previous = locks.get(lock.table, lock)
        strongest = max(previous.strength, lock.strength, key=STRENGTHS.index)
        locks[lock.table] = Lock(lock.table, strongest, previous.order or lock.order)
    parts = []
    for how, alike in groupby(locks.values(), key=lambda lock: f"{lock.strength} {lock.order}".strip()):
        parts.append(f"{', '.join(lock.table for lock in alike)} {how}")
    if new:
        parts.append(f"new {', '.join(dict.fromkeys(new))}")
    parts += [f"advisory {key}" for key in advisory]
    return "; ".join([*parts, f"to {next(iter(advisory.values()), 'commit')}"]) if parts else "none"


async def locked_rows(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> dict[Row, str]:
    """The rows that the runner has locked, with the strength of each lock."""
    pid = runner.get_server_pid()
    tables = await watcher.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    queries = (f"SELECT '{table}', locked_row, modes, pids FROM pgrowlocks('{table}')" for (table,) in tables)
    result: dict[Row, str] = {}
    for table, row, modes, pids in await watcher.fetch(" UNION ALL ".join(queries)):
        own = [mode.removeprefix("For ").upper() for mode, owner in zip(modes, pids, strict=True) if owner == pid]
        if own:
            result[table, row] = max(own, key=STRENGTHS.index)
    return result


async def run_predecessors(connection: asyncpg.Connection, name: str) -> None:
    """Run the statements that, by the headers, the transaction has run before this one."""
    if predecessor := headers.waits(name).predecessor:
        await run_predecessors(connection, predecessor)
        await connection.fetch(Statement(predecessor).sql, *SCENARIOS[name].predecessor)


async def rows_locked_before(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, name: str, run: Run, row: Row, strength: str
) -> set[Row] | None:
    """The rows that the statement has locked when it comes to this one; None when it skips this row if it is locked.

    The watcher locks the row, so that the statement stops there.
    """
    table, place = row
    async with transaction(runner):
        async with transaction(watcher):
            await watcher.execute(f"SELECT FROM {table} WHERE ctid = '{place}' FOR {WEAKEST_CONFLICT[strength]}")
            running = asyncio.create_task(runner.fetch(Statement(name).sql, *run.arguments))
            stopped = await waits_for_watcher(runner, watcher, running)
            result = set(await locked_rows(watcher, runner)) if stopped else None
        await running
    return result


async def waits_for_watcher(
    runner: asyncpg.Connection, watcher: asyncpg.Connection, running: "asyncio.Task[Any]"
) -> bool:
    """Whether a running statement comes to wait for the watcher, instead of to its end."""
    blocking = "SELECT $1 = ANY(pg_blocking_pids($2))"
    while not running.done():
        if await watcher.fetchval(blocking, watcher.get_server_pid(), runner.get_server_pid()):
            return True
    return False


@asynccontextmanager
async def transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction that is rolled back, with its advisory locks released."""
    await connection.execute("BEGIN")
    try:
        yield
    finally:
        await connection.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")


async def table_modes(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> dict[str, str]:
    """The strongest mode in which the runner has locked each table, without the tables that it only reads."""
    modes = await watcher.fetch(
        "SELECT relname, array_agg(mode) FROM pg_locks INNER JOIN pg_class ON relation = pg_class.oid"
        " WHERE pid = $1 AND relkind = 'r' AND relnamespace = 'public'::regnamespace GROUP BY relname",
        runner.get_server_pid(),
    )
    strongest = {table: "RowExclusiveLock" if "RowExclusiveLock" in taken else max(taken) for table, taken in modes}
    return {table: mode for table, mode in strongest.items() if mode != "AccessShareLock"}


async def advisory_keys(watcher: asyncpg.Connection, runner: asyncpg.Connection) -> list[int]:
    """The keys of the advisory locks that the runner has."""
    keys = await watcher.fetch(
        "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = $1",
        runner.get_server_pid(),
    )
    return [key for (key,) in keys]
