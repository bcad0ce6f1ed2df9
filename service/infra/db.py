"""The connection pool, and transactions that are run again whole when they came to nothing."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import orjson

from service.errors import CONSTRAINTS, LOGIN_SQLSTATES, SQLSTATES, ShopError
from service.infra.limiters import Limiter
from service.settings import Settings

# What the pool hands out: a connection, or the proxy of one that it takes back.
Connection: TypeAlias = Any
# Why PostgreSQL cannot be used, in the words of readiness.
Trouble: TypeAlias = Literal["unreachable", "login_refused", "read_only"]
# All hosts of the URL share it, so that a host that is down leaves time to try the next one.
CONNECT_SECONDS = 3.0
# How long a statement may take; a server that has not said so itself a second later is not there.
STATEMENT_SECONDS = 10
# A server that hangs is left alone for so long: those who wait for it shall not wait one after another.
REST_SECONDS = 1.0
# Connections that transactions leave to statements that stand alone: who only looks is done in a moment, and shall not
# wait behind all who buy. With 320 checkouts queueing a page took 0.5 s.
READERS = 2
# migrations/roles.psql has them too, for whoever comes under the service's roles without this pool.
LIMITS = {
    "lock_timeout": "2s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # Every statement is written for its indexes; compiling it, or starting workers for a page, would only cost time.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}

logger = logging.getLogger(__name__)
# The connection went away, or the server behind it.
CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    # The driver's, of a connection on which the server has just said goodbye.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

_DETAILS: dict[Trouble, str] = {
    "unreachable": "PostgreSQL cannot be reached; try again.",
    "login_refused": "PostgreSQL refuses the login.",
    "read_only": "PostgreSQL is read-only: no server that takes writes was found.",
}


class Pool(asyncpg.Pool):  # type: ignore[misc]
    """asyncpg's, with bounded queues before it: one for all, and one before that for transactions."""

    def __init__(self, url: str, *, max_size: int, waiting: int, **options: Any) -> None:
        super().__init__(url, max_size=max_size, **options)
        self.urls = _one_host_each(url)
        self.turns = Limiter(max_size, waiting=waiting)
        self.writers = Limiter(max(1, max_size - READERS), waiting=waiting)
        self.unresponsive_until = 0.0

    async def release(self, connection: Connection, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - its name there
        """asyncpg's, less a task of its own, by which who is cancelled still gives it back.

        Here nothing is waited for, unless there is something to clear up. 18 of 87 µs of a connection's use.
        """
        inner = connection._con
        if inner is None or inner.is_closed() or inner._protocol._is_cancelling() or inner.is_in_transaction():
            await super().release(connection, timeout=timeout)
        else:
            inner._on_release()
            await connection._holder.release(timeout)


def open_pool(
    settings: Settings, name: str, statement_seconds: int = STATEMENT_SECONDS, *, read_only: bool = False
) -> Pool:
    """A pool of up to `db_pool_size` connections, for `async with`; connects when first used.

    `name` is what `pg_stat_activity` calls them; a statement may take `statement_seconds`. The server must take
    writes, unless `read_only`.
    """

    async def connect(_: str, **options: Any) -> Connection:
        if time.monotonic() < pool.unresponsive_until:
            raise _unavailable("unreachable")
        failures: list[Exception] = []
        for url in list(pool.urls):
            try:
                opened = await _connect(url, CONNECT_SECONDS / len(pool.urls), options)
            except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
                failures.append(error)
            else:
                # The next connection tries this host first.
                pool.urls.remove(url)
                pool.urls.insert(0, url)
                return opened
        if any(isinstance(error, TimeoutError) for error in failures):
            _mark_unresponsive(pool)
        # A server that answered says more than one that did not.
        telling = next((error for error in failures if not isinstance(error, OSError)), failures[-1])
        if isinstance(telling, asyncpg.PostgresError) and telling.sqlstate in LOGIN_SQLSTATES:
            log_failure(telling)
            raise _unavailable("login_refused") from telling
        raise telling

    pool = Pool(
        settings.database_url,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        min_size=0,
        max_size=settings.db_pool_size,
        # All that the API lets in: to refuse some of it here would cost more than to refuse it there.
        waiting=settings.max_in_flight,
        max_queries=50_000,
        max_inactive_connection_lifetime=300,
        # Twice what we have statements, so that none is ever prepared a second time.
        statement_cache_size=200,
        max_cached_statement_lifetime=0,
        command_timeout=statement_seconds + 1,
        server_settings={"application_name": name, **LIMITS, "statement_timeout": f"{statement_seconds}s"},
        # A role may have default_transaction_read_only, as commerce_readonly has: no server would do for it.
        target_session_attrs="any" if read_only else "read-write",
        connect=connect,
        setup=None,
        init=None,
        reset=_nothing_to_reset,
    )
    return pool


def _one_host_each(url: str) -> list[str]:
    """A URL for each host: asyncpg would wait for the first one for all of the time there is."""
    split = urlsplit(url)
    login, at, hosts = split.netloc.rpartition("@")
    return [split._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]


async def _connect(url: str, seconds: float, options: dict[str, Any]) -> Connection:
    opened = None
    try:
        async with asyncio.timeout(seconds):
            opened = await asyncpg.connect(url, **options)
            await _register_jsonb(opened)
            return opened
    except BaseException:
        if opened is not None:
            opened.terminate()
        raise


async def _register_jsonb(connection: Connection) -> None:
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
        async with pool.turns, pool.acquire() as acquired:
            try:
                yield acquired
            except TimeoutError:
                abandon(acquired)
                _mark_unresponsive(pool)
                raise
            except asyncpg.ReadOnlySQLTransactionError:
                await leave_server(pool, acquired)
                raise
            except (asyncio.CancelledError, asyncpg.InternalClientError):
                abandon(acquired)
                raise
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        refused = shop_error(error)
        if refused.kind.status >= 500:
            log_failure(error)
        raise refused from error


def abandon(connection: Connection) -> None:
    """Drop a connection on which an answer is due, or that is lost.

    asyncpg would ask the server, over another connection, to forget the question, and wait for that: a server that
    hangs hears neither.
    """
    # Unless the connection was lost and has gone back to the pool by itself.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


async def leave_server(pool: Pool, connection: Connection) -> None:
    """Drop this connection and, when it is next taken, each of the pool's others: their server was demoted too."""
    abandon(connection)
    await pool.expire_connections()


def _mark_unresponsive(pool: Pool) -> None:
    pool.unresponsive_until = time.monotonic() + REST_SECONDS


def _unavailable(trouble: Trouble) -> ShopError:
    return ShopError("unavailable", _DETAILS[trouble], postgresql=trouble)


def log_failure(error: BaseException) -> None:
    """Log why a call failed. The message's later lines can hold values of a row, so they are left out."""
    reason = str(error).partition("\n")[0]
    sqlstate = getattr(error, "sqlstate", None)
    extra = {"error": type(error).__name__, "sqlstate": sqlstate, "reason": reason}
    logger.warning("database call failed", extra=extra)


def is_connection_loss(error: BaseException) -> bool:
    # What the driver says of an argument that it cannot send is an InterfaceError and a ValueError.
    return isinstance(error, CONNECTION_LOST) and not isinstance(error, ValueError)


def shop_error(error: BaseException) -> ShopError:
    """What an error of the driver or the server means to a client."""
    if isinstance(error, ShopError):
        return error
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(error.constraint_name or "")
        if known:
            return ShopError(*known)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return _unavailable("read_only")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in SQLSTATES:
        if SQLSTATES[error.sqlstate] == "unavailable":
            return _unavailable("unreachable")
        return ShopError(SQLSTATES[error.sqlstate], "The database is busy; try again.")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return ShopError("busy", "The database is being migrated; try again.")
    if is_connection_loss(error):
        return _unavailable("unreachable")
    raise error
