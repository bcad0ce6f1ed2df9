"""The connection pool, and transactions that are retried whole when the server asks for it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg
import orjson

from service.errors import CONSTRAINTS, SQLSTATES, ShopError
from service.infra.turns import Turns
from service.settings import Settings

# What the pool hands out: a connection, or the proxy of one that it takes back.
Connection: TypeAlias = Any
T = TypeVar("T")

ATTEMPTS = 3
CONNECT_SECONDS = 5.0
LIMITS = {
    "lock_timeout": "2s",
    "statement_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # Every statement is written for its indexes; compiling it would only cost time.
    "jit": "off",
}

# Gone for a moment: another transaction was in the way, or a migration made an old plan void.
_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
)
_LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError, OSError, TimeoutError)


class Pool(asyncpg.Pool):  # type: ignore[misc]
    """asyncpg's, with a bounded queue before it."""

    def __init__(self, *url: str, max_size: int, **options: Any) -> None:
        super().__init__(*url, max_size=max_size, **options)
        self._turns = Turns(max_size)

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:  # noqa: ASYNC109 - asyncpg's
        """A connection, given back at the end; `timeout` seconds for connecting, not for queueing."""
        async with self._turns, super().acquire(timeout=timeout) as acquired:
            yield acquired


def open_pool(settings: Settings, name: str) -> Pool:
    """A pool of up to `db_pool_size` connections, for `async with`; connects when first used.

    `name` is what `pg_stat_activity` calls them.
    """
    return Pool(
        settings.database_url,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        min_size=0,
        max_size=settings.db_pool_size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300,
        # Twice what we have statements, so that none is ever prepared a second time.
        statement_cache_size=200,
        max_cached_statement_lifetime=0,
        command_timeout=15,
        timeout=CONNECT_SECONDS,
        server_settings={"application_name": name, **LIMITS},
        init=_speak_json,
        reset=_nothing_to_reset,
    )


async def _speak_json(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda data: orjson.loads(data[1:]),
    )


async def _nothing_to_reset(connection: Connection) -> None:
    """Nothing here sets session state, so the reset that asyncpg sends on every release would be for nothing."""


@asynccontextmanager
async def connection(pool: Pool) -> AsyncIterator[Connection]:
    """A connection for statements that stand alone; what the server refuses becomes a ShopError."""
    try:
        async with pool.acquire(timeout=CONNECT_SECONDS) as acquired:
            yield acquired
    except (asyncpg.PostgresError, *_LOST) as error:
        raise shop_error(error) from error


async def transact(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work(tx)` in one explicit READ COMMITTED transaction, and again when it lost to another.

    `work` must have no effect but on the database. Raises ShopError: `busy` when retries are used up,
    `unavailable` without a server, or what a violated constraint means.
    """
    for attempt in range(1, ATTEMPTS + 1):
        async with connection(pool) as tx:
            try:
                async with tx.transaction():
                    return await work(tx)
            except _AGAIN:
                if attempt == ATTEMPTS:
                    raise
        await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter
    raise AssertionError


def shop_error(error: BaseException) -> ShopError:
    """What an error of the driver or the server means to a client."""
    if isinstance(error, ShopError):
        return error
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(error.constraint_name or "")
        if known:
            return ShopError(*known)
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in SQLSTATES:
        return ShopError(SQLSTATES[error.sqlstate], "The database is busy or restarting; try again.")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return ShopError("busy", "The database is being migrated; try again.")
    if isinstance(error, TimeoutError):
        return ShopError("busy", "No database connection became free in time; try again.")
    if isinstance(error, _LOST):
        return ShopError("unavailable", "The database cannot be reached; try again.")
    raise error
