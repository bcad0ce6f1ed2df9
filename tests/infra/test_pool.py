"""Which connections the pool uses again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import asyncpg
import pytest

from service.errors import ShopError
from service.infra import db
from service.settings import Settings


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[db.Pool]:
    async with aclosing(db.Pool(settings, "commerce-tests")) as pool:
        yield pool


async def server_pid(pool: db.Pool) -> int:
    """The server's process behind the connection that is used next."""
    async with db.connection(pool) as connection:
        return int(connection.get_server_pid())


async def test_a_connection_is_used_again(pool: db.Pool) -> None:
    first = await server_pid(pool)

    assert await server_pid(pool) == first


async def test_the_connection_used_last_is_used_next(pool: db.Pool) -> None:
    async with db.connection(pool):
        last = await server_pid(pool)
    async with db.connection(pool) as outer:
        assert outer.get_server_pid() != last

        assert await server_pid(pool) == last


async def test_a_connection_in_a_transaction_is_closed(pool: db.Pool) -> None:
    async with db.connection(pool) as connection:
        await connection.execute("BEGIN")
        first = connection.get_server_pid()

    assert await server_pid(pool) != first
    assert connection.is_closed()


async def test_a_connection_with_a_cancelled_statement_is_closed(pool: db.Pool) -> None:
    async with db.connection(pool) as connection:
        pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), db.connection(pool) as connection:
            await connection.execute("SELECT pg_sleep(60)")

    assert connection.is_closed()
    assert await server_pid(pool) > 0


async def test_a_connection_that_the_server_closed_is_not_used(pool: db.Pool, database: asyncpg.Connection) -> None:
    first = await server_pid(pool)

    await database.execute("SELECT pg_terminate_backend($1, 5000)", first)
    await asyncio.sleep(0.05)

    assert await server_pid(pool) != first


async def fail(pool: db.Pool, error: Exception, *errors_meanwhile: Exception) -> None:
    """Raise an error on a connection, after the errors on others that are opened meanwhile."""
    async with db.connection(pool):
        for other in errors_meanwhile:
            with pytest.raises(ShopError):
                await fail(pool, other)
        raise error


async def test_after_a_time_out_no_connection_is_opened_for_a_while(pool: db.Pool) -> None:
    with pytest.raises(ShopError):
        await fail(pool, TimeoutError())

    with pytest.raises(ShopError):
        await server_pid(pool)


async def test_a_time_out_at_a_demoted_server_leaves_the_new_one_in_use(pool: db.Pool) -> None:
    # As of a COMMIT that waits for the standby, which no longer follows.
    with pytest.raises(ShopError):
        await fail(pool, TimeoutError(), asyncpg.ReadOnlySQLTransactionError("read-only"))

    assert await server_pid(pool) > 0


async def test_an_error_of_a_statement_keeps_the_connection(pool: db.Pool) -> None:
    first = await server_pid(pool)

    with pytest.raises(asyncpg.DivisionByZeroError):
        async with db.connection(pool) as connection:
            await connection.execute("SELECT 1 / 0")

    assert await server_pid(pool) == first


@pytest.mark.parametrize("limit", ["IDLE_SECONDS", "AGE_SECONDS"])
async def test_an_idle_or_old_connection_is_replaced(
    pool: db.Pool, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    first = await server_pid(pool)

    monkeypatch.setattr(db, limit, 0.01)
    await asyncio.sleep(0.02)

    assert await server_pid(pool) != first


async def test_idle_connections_are_closed_although_others_are_used(
    pool: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with db.connection(pool) as first, db.connection(pool) as second:
        pass
    monkeypatch.setattr(db, "IDLE_SECONDS", 0.5)

    while not (first.is_closed() or second.is_closed()):
        await server_pid(pool)
        await asyncio.sleep(0.01)

    assert first.is_closed() != second.is_closed()


async def test_closing_ends_idle_connections_at_once_and_busy_ones_on_release(settings: Settings) -> None:
    pool = db.Pool(settings, "commerce-tests")
    async with db.connection(pool) as busy:
        async with db.connection(pool) as idle:
            pass

        await pool.aclose()

        assert idle.is_closed()
        assert await busy.fetchval("SELECT 1") == 1
    assert busy.is_closed()
