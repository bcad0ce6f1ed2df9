"""The connections to PostgreSQL: opened when needed, kept for the next caller, dropped when they may be broken."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import orjson

from service.errors import LOGIN_SQLSTATES
from service.infra.db_errors import CONNECTION_LOST, is_connection_loss, log_failure, shop_error, unavailable
from service.infra.limiters import Limiter
from service.settings import Settings

# asyncpg.Connection. asyncpg 0.30, our lowest version, has no types.
Connection: TypeAlias = Any
# The hosts of the URL share this time, so that one that does not answer leaves time for the next one.
CONNECT_SECONDS = 3.0
CLOSE_SECONDS = 2.0
# The server ends a statement after this time. A server that has not done so a second later does not answer.
STATEMENT_SECONDS = 10
# After a time-out no connection is opened for this long. Otherwise the callers would wait one after another.
REST_SECONDS = 1.0
# After this time without use a connection is closed, because a firewall may have dropped it silently.
IDLE_SECONDS = 300.0
# After this time it is closed anyway, because the memory of its server process only grows.
AGE_SECONDS = 1800.0
# Connections reserved for single statements. Without them a page took 0.5 s while 320 checkouts queued.
RESERVED_FOR_READS = 2
# migrations/roles.psql sets them too, for logins that do not use this pool.
LIMITS = {
    "lock_timeout": "2s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    # Every statement has its indexes, so compiling it or starting workers only costs time.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


@dataclass(slots=True)
class _Pooled:
    """A connection, when it was opened and when it was last used (monotonic)."""

    connection: Connection
    opened_at: float
    used_at: float


class Pool:
    """Up to `db_pool_size` connections, each opened when it is first needed.

    `limiter` is the only queue in front of them; transactions pass `transaction_limiter` first. `name` is what
    `pg_stat_activity` shows. The server must take writes, unless the pool is `read_only`.
    """

    def __init__(
        self, settings: Settings, name: str, statement_seconds: int = STATEMENT_SECONDS, *, read_only: bool = False
    ) -> None:
        # A URL for each host: asyncpg would let the first one use all of the time.
        split = urlsplit(settings.database_url)
        login, at, hosts = split.netloc.rpartition("@")
        self.urls = [split._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]
        # As many may wait as the API admits: refusing some of them here would cost more than refusing them there.
        size, max_waiting = settings.db_pool_size, settings.max_in_flight
        self.limiter = Limiter(size, max_waiting=max_waiting)
        self.transaction_limiter = Limiter(max(1, size - RESERVED_FOR_READS), max_waiting=max_waiting)
        self._options = {
            "command_timeout": statement_seconds + 1,
            "server_settings": {"application_name": name, **LIMITS, "statement_timeout": f"{statement_seconds}s"},
            # More than there are statements, so that a connection prepares each only once.
            "statement_cache_size": 200,
            "max_cached_statement_lifetime": 0,
            # commerce_readonly has default_transaction_read_only on: under it every server looks read-only.
            "target_session_attrs": "any" if read_only else "read-write",
        }
        # Least recently used first.
        self._idle: list[_Pooled] = []
        self._expired_at = self.unresponsive_until = 0.0

    async def aclose(self) -> None:
        """Close the idle connections now, and the others as soon as they are released."""
        idle, self._idle, self._expired_at = self._idle, [], inf
        await asyncio.gather(
            *(pooled.connection.close(timeout=CLOSE_SECONDS) for pooled in idle), return_exceptions=True
        )

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection outside of `limiter`; errors stay the driver's. Most callers want `connection` below."""
        while self._idle and not self._is_usable(self._idle[-1]):
            self._idle.pop().connection.terminate()
        pooled = self._idle.pop() if self._idle else await self._open()
        try:
            yield pooled.connection
        except BaseException as error:
            self.drop_if_unusable(pooled.connection, error)
            raise
        finally:
            self._release(pooled)

    def drop_if_unusable(self, connection: Connection, error: BaseException) -> None:
        """After an error: close a connection that may be broken, and all connections if their server was demoted."""
        if isinstance(error, TimeoutError):
            self.unresponsive_until = time.monotonic() + REST_SECONDS
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self._expired_at = time.monotonic()
        if is_connection_loss(error) or not isinstance(error, Exception):
            # Unlike `close`, this does not wait for the server to cancel the statement.
            connection.terminate()

    def _release(self, pooled: _Pooled) -> None:
        pooled.used_at = time.monotonic()
        if not self._is_usable(pooled) or pooled.connection.is_in_transaction():
            pooled.connection.terminate()
            return
        self._idle.append(pooled)
        while not self._is_usable(self._idle[0]):
            self._idle.pop(0).connection.terminate()

    def _is_usable(self, pooled: _Pooled) -> bool:
        now = time.monotonic()
        opened_after, used_after = max(self._expired_at, now - AGE_SECONDS), now - IDLE_SECONDS
        return not pooled.connection.is_closed() and pooled.opened_at > opened_after and pooled.used_at > used_after

    async def _open(self) -> _Pooled:
        started = time.monotonic()
        if started < self.unresponsive_until:
            raise unavailable("unreachable")
        failures: list[Exception] = []
        for url in list(self.urls):
            try:
                connection = await _connect(url, CONNECT_SECONDS / len(self.urls), self._options)
            except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
                failures.append(error)
                continue
            # The next connection tries this host first.
            self.urls.sort(key=lambda other: other != url)
            return _Pooled(connection, started, started)
        if any(isinstance(error, TimeoutError) for error in failures):
            self.unresponsive_until = time.monotonic() + REST_SECONDS
        # A server's error says more than a failed connection.
        answer = min(failures, key=lambda error: isinstance(error, OSError))
        if isinstance(answer, asyncpg.PostgresError) and answer.sqlstate in LOGIN_SQLSTATES:
            log_failure(answer)
            raise unavailable("login_refused") from answer
        raise answer


async def _connect(url: str, seconds: float, options: dict[str, Any]) -> Connection:
    async with asyncio.timeout(seconds):
        connection = await asyncpg.connect(url, **options)
        try:
            encode, decode = (lambda value: b"\x01" + orjson.dumps(value)), (lambda data: orjson.loads(data[1:]))
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=encode, decoder=decode
            )
        except BaseException:
            connection.terminate()
            raise
    return connection


@asynccontextmanager
async def connection(pool: Pool) -> AsyncIterator[Connection]:
    """A connection for single statements. Errors of PostgreSQL and the driver become a ShopError."""
    try:
        async with pool.limiter, pool.acquire() as acquired:
            yield acquired
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        refused = shop_error(error)
        if refused.kind.status >= 500:
            log_failure(error)
        raise refused from error
