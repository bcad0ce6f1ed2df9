"""The connections to PostgreSQL: opened when needed, kept for the next caller, dropped when they may be broken."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import asyncpg
import orjson
from psycopg.conninfo import conninfo_to_dict

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
    # Whatever the server, the database or the role says.
    "default_transaction_isolation": "read committed",
    "search_path": "public",
}
# What asyncpg reads from a URL only.
_TLS = re.compile("ssl(mode|cert|key|rootcert|crl|password|_m(in|ax)_protocol_version)|passfile")


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
        self.addresses = read_addresses(settings.database_url)
        # As many may wait as the API admits: refusing some of them here would cost more than refusing them there.
        size, max_waiting = settings.db_pool_size, settings.max_in_flight
        self.limiter = Limiter(size, name="pool", max_waiting=max_waiting)
        slots = max(1, size - RESERVED_FOR_READS)
        self.transaction_limiter = Limiter(slots, name="transactions", max_waiting=max_waiting)
        self._options: dict[str, Any] = {
            "command_timeout": statement_seconds + 1,
            "server_settings": {"application_name": name, **LIMITS, "statement_timeout": f"{statement_seconds}s"},
            "statement_cache_size": settings.db_statement_cache_size,
            "max_cached_statement_lifetime": 0,
            "target_session_attrs": "any",
        }
        # commerce_readonly has default_transaction_read_only on: under it every server looks read-only.
        self._must_write = not read_only
        # Least recently used first.
        self._idle: list[_Pooled] = []
        # Those in use, and when each was opened.
        self._acquired: dict[Connection, float] = {}
        self._expired_at = self.unresponsive_until = 0.0

    @property
    def idle(self) -> int:
        """How many connections are open and unused."""
        return len(self._idle)

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
        self._acquired[pooled.connection] = pooled.opened_at
        try:
            yield pooled.connection
        except BaseException as error:
            self.drop_if_unusable(pooled.connection, error)
            raise
        finally:
            del self._acquired[pooled.connection]
            self._release(pooled)

    def drop_if_unusable(self, connection: Connection, error: BaseException) -> None:
        """After an error: close a connection that may be broken, and all connections if their server was demoted."""
        # A COMMIT at a demoted server waits in vain for its standby. That says nothing about the new primary.
        if isinstance(error, TimeoutError) and self._acquired[connection] > self._expired_at:
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
        for address in list(self.addresses):
            try:
                connection = await self._connect(address)
            except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
                failures.append(error)
                continue
            # The next connection tries this host first.
            self.addresses.sort(key=lambda other: other != address)
            return _Pooled(connection, started, started)
        if any(isinstance(error, TimeoutError) for error in failures):
            self.unresponsive_until = time.monotonic() + REST_SECONDS
        # A server's error says more than a failed connection.
        answer = min(failures, key=lambda error: isinstance(error, OSError))
        if isinstance(answer, asyncpg.PostgresError) and answer.sqlstate in LOGIN_SQLSTATES:
            log_failure(answer)
            raise unavailable("login_refused") from answer
        raise answer

    async def _connect(self, address: dict[str, Any]) -> Connection:
        settings = {**address["server_settings"], **self._options["server_settings"]}
        async with asyncio.timeout(CONNECT_SECONDS / len(self.addresses)):
            connection = await asyncpg.connect(**{**address, **self._options, "server_settings": settings})
            try:
                encode, decode = (lambda value: b"\x01" + orjson.dumps(value)), (lambda data: orjson.loads(data[1:]))
                await connection.set_type_codec(
                    "jsonb", schema="pg_catalog", format="binary", encoder=encode, decoder=decode
                )
                # Not by target_session_attrs: a pooler tells what its server said when it first connected.
                if self._must_write and await connection.fetchval("SHOW transaction_read_only") == "on":
                    raise asyncpg.ReadOnlySQLTransactionError("transaction_read_only is on")
            except BaseException:
                connection.terminate()
                raise
        return connection


def read_addresses(database_url: str) -> list[dict[str, Any]]:
    """asyncpg's arguments for each host of a URL. With all hosts in one call, the first would use all of the time.

    libpq reads the URL, as it does for psycopg: then both drivers understand it in the same way.
    """
    parameters = {name: str(value) for name, value in conninfo_to_dict(database_url).items() if value != ""}
    hosts, ports = (parameters.get(name, "").split(",") for name in ("host", "port"))
    tls = {name: value for name, value in parameters.items() if _TLS.fullmatch(name)}
    # For libpq it means the system's certificates, for asyncpg a file's name.
    system = tls.get("sslrootcert") == "system"
    common: dict[str, Any] = {
        **({"ssl": ssl.create_default_context()} if system else {}),
        "dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}",
        "user": parameters.get("user"),
        "password": parameters.get("password"),
        "database": parameters.get("dbname"),
        "server_settings": {"options": parameters["options"]} if "options" in parameters else {},
    }
    return [
        {**common, "host": host or None, "port": int(port) if port else None}
        for host, port in zip(hosts, ports if len(ports) > 1 else ports * len(hosts), strict=True)
    ]


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
