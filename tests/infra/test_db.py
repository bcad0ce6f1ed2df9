"""Transactions are retried whole where the server asks for it, and what they end in is an error of ours."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGSTOP

import asyncpg
import pytest

from service.dev.servers import postgres, scratch_folder
from service.errors import ShopError
from service.infra import db
from service.infra.parts import Parts
from service.settings import Settings
from tests.client import eventually
from tests.faults.proxy import Proxy, statements
from tests.faults.stage import family

Work = Callable[[db.Connection], Awaitable[None]]


async def two_rows(database: asyncpg.Connection) -> None:
    await database.execute("CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    await database.execute("INSERT INTO counters (id) VALUES (1), (2)")
    await database.execute("GRANT ALL ON counters TO commerce_worker")


async def test_a_deadlock_is_retried_and_both_transactions_commit(parts: Parts, database: asyncpg.Connection) -> None:
    await two_rows(database)
    both_hold_one, tries = asyncio.Barrier(2), []

    def count_up(first: int, second: int) -> Work:
        async def work(tx: db.Connection) -> None:
            tries.append(first)
            await tx.execute("UPDATE counters SET n = n + 1 WHERE id = $1", first)
            if tries.count(first) == 1:
                await both_hold_one.wait()
            await tx.execute("UPDATE counters SET n = n + 1 WHERE id = $1", second)

        return work

    await asyncio.gather(*(db.transact(parts.pool, count_up(*order)) for order in ((1, 2), (2, 1))))
    assert len(tries) > 2
    assert await database.fetch("SELECT n FROM counters ORDER BY id") == [(2,), (2,)]


async def test_a_lock_that_is_not_had_is_busy_and_the_connection_is_clean(
    parts: Parts, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_rows(database)
    tries = 0

    async def work(tx: db.Connection) -> None:
        nonlocal tries
        tries += 1
        await tx.execute("SET LOCAL lock_timeout = '20ms'")
        await tx.execute("UPDATE counters SET n = n + 1 WHERE id = 1")

    async with database.transaction():
        await database.execute("UPDATE counters SET n = 7 WHERE id = 1")
        with pytest.raises(ShopError) as refused:
            await db.transact(parts.pool, work)
    assert (refused.value.code, tries) == ("busy", db.ATTEMPTS)
    await db.transact(parts.pool, work)
    assert await database.fetchval("SELECT n FROM counters WHERE id = 1") == 8


async def test_a_plan_made_void_by_a_migration_is_made_anew(parts: Parts, database: asyncpg.Connection) -> None:
    await two_rows(database)

    async def work(tx: db.Connection) -> asyncpg.Record:
        return await tx.fetchrow("SELECT * FROM counters WHERE id = 1")

    assert len(await db.transact(parts.pool, work)) == 2
    await database.execute("ALTER TABLE counters ADD COLUMN more integer")
    assert len(await db.transact(parts.pool, work)) == 3


async def ask(tx: db.Connection) -> int:
    return int(await tx.fetchval("SELECT 1"))


async def answers(pool: db.Pool) -> bool:
    try:
        return await db.transact(pool, ask) == 1
    except ShopError:
        return False


async def test_without_a_server_it_is_unavailable_and_recovers_by_itself(settings: Settings) -> None:
    with scratch_folder() as folder:
        with postgres(folder, durable=False) as url:
            port = int(url.rpartition(":")[2].partition("/")[0])
            changed = settings.model_copy(update={"database_url": url})
            pool = await db.open_pool(changed, "commerce-tests")
            assert await db.transact(pool, ask) == 1
        with pytest.raises(ShopError) as refused:
            await db.transact(pool, ask)
        assert refused.value.code == "unavailable"
        assert refused.value.kind.retry_after
        with postgres(folder, port=port, durable=False):
            assert await eventually(lambda: answers(pool))
            await pool.close()


async def test_time_limits_and_names_are_set_on_the_server(parts: Parts) -> None:
    async with db.connection(parts.pool) as connection:
        for name, value in db.LIMITS.items():
            assert await connection.fetchval("SELECT current_setting($1)", name) == value
        assert await connection.fetchval("SELECT current_setting('application_name')") == "commerce-tests"
    async with db.open_pool(parts.settings, "commerce-tests", statement_seconds=300) as patient:
        assert await patient.fetchval("SELECT current_setting('statement_timeout')") == "5min"


async def test_a_server_that_hangs_is_told_to_everybody_while_it_hangs(settings: Settings) -> None:
    with scratch_folder() as folder, postgres(folder, durable=False) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        async with Proxy(port, statements) as proxy:
            through = url.replace(f":{port}/", f":{proxy.port}/")
            one = settings.model_copy(update={"database_url": through, "db_pool_size": 1})
            pool = await db.open_pool(one, "commerce-tests", statement_seconds=1)
            assert await db.transact(pool, ask) == 1
            server = family(int((folder / "pid").read_text()))
            for pid in server:
                os.kill(pid, SIGSTOP)
            try:
                with pytest.raises(ShopError) as told:
                    await db.transact(pool, ask)
                # It was not asked over another connection to forget the question, which it would not hear.
                assert (told.value.code, proxy.accepted) == ("unavailable", 1)
                # And nobody who comes next waits for it in turn.
                waiting = asyncio.gather(*(db.transact(pool, ask) for _ in range(20)), return_exceptions=True)
                assert {getattr(answer, "code", answer) for answer in await waiting} == {"unavailable"}
            finally:
                for pid in server:
                    os.kill(pid, SIGCONT)
            assert await eventually(lambda: answers(pool))
            await pool.close()


async def test_a_swallowed_error_is_no_commit(parts: Parts) -> None:
    async def work(tx: db.Connection) -> None:
        with contextlib.suppress(asyncpg.PostgresError):
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(AssertionError):
        await db.transact(parts.pool, work)
