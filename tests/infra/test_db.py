"""Transactions are retried when they had no effect, and their errors become errors of ours."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from signal import SIGCONT, SIGSTOP
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.app import create_app
from service.dev.servers import free_port, postgres, scratch_folder
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.infra import db, transactions
from service.infra.resources import Resources
from service.infra.transactions import run_transaction
from service.settings import Settings
from tests.client import Shop, eventually
from tests.conftest import login, served
from tests.faults.processes import family
from tests.faults.proxy import Proxy, statements
from tests.queries import on

Work = Callable[[db.Connection], Awaitable[None]]


async def create_counters(database: asyncpg.Connection) -> None:
    """A table with two rows, that the worker may change."""
    await database.execute("CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    await database.execute("INSERT INTO counters (id) VALUES (1), (2)")
    await database.execute("GRANT ALL ON counters TO commerce_worker")


async def test_a_deadlock_is_retried_and_both_transactions_commit(
    resources: Resources, database: asyncpg.Connection
) -> None:
    await create_counters(database)
    both_locked_one, attempts = asyncio.Barrier(2), []

    def increment_both(first: int, second: int) -> Work:
        async def work(tx: db.Connection) -> None:
            attempts.append(first)
            await tx.execute("UPDATE counters SET n = n + 1 WHERE id = $1", first)
            if attempts.count(first) == 1:
                await both_locked_one.wait()
            await tx.execute("UPDATE counters SET n = n + 1 WHERE id = $1", second)

        return work

    await asyncio.gather(*(run_transaction(resources.pool, increment_both(*order)) for order in ((1, 2), (2, 1))))

    assert len(attempts) > 2
    assert await database.fetch("SELECT n FROM counters ORDER BY id") == [(2,), (2,)]


async def increment(tx: db.Connection) -> None:
    """Increment the first counter, or fail after 20 ms without its lock."""
    await tx.execute("SET LOCAL lock_timeout = '20ms'")
    await tx.execute("UPDATE counters SET n = n + 1 WHERE id = 1")


async def test_a_lock_timeout_is_busy_and_leaves_a_clean_connection(
    resources: Resources, database: asyncpg.Connection
) -> None:
    await create_counters(database)
    attempts = 0

    async def work(tx: db.Connection) -> None:
        nonlocal attempts
        attempts += 1
        await increment(tx)

    async with database.transaction():
        await database.execute("UPDATE counters SET n = 7 WHERE id = 1")
        with pytest.raises(ShopError) as refused:
            await run_transaction(resources.pool, work)
    await run_transaction(resources.pool, work)

    assert (refused.value.code, attempts) == ("busy", transactions.ATTEMPTS + 1)
    assert await database.fetchval("SELECT n FROM counters WHERE id = 1") == 8


async def test_a_plan_that_a_migration_invalidated_is_prepared_again(
    resources: Resources, database: asyncpg.Connection
) -> None:
    await create_counters(database)

    async def work(tx: db.Connection) -> asyncpg.Record:
        return await tx.fetchrow("SELECT * FROM counters WHERE id = 1")

    assert len(await run_transaction(resources.pool, work)) == 2

    await database.execute("ALTER TABLE counters ADD COLUMN more integer")

    assert len(await run_transaction(resources.pool, work)) == 3


async def select_one(tx: db.Connection) -> int:
    return int(await tx.fetchval("SELECT 1"))


async def is_available(pool: db.Pool) -> bool:
    try:
        return await run_transaction(pool, select_one) == 1
    except ShopError:
        return False


async def test_without_a_server_it_is_unavailable_and_recovers_by_itself(settings: Settings) -> None:
    with scratch_folder() as folder:
        with postgres(folder, durable=False) as url:
            port = int(url.rpartition(":")[2].partition("/")[0])
            changed = settings.model_copy(update={"database_url": url})
            pool = db.Pool(changed, "commerce-tests")
            assert await run_transaction(pool, select_one) == 1
        with pytest.raises(ShopError) as refused:
            await run_transaction(pool, select_one)
        assert refused.value.code == "unavailable"
        assert refused.value.kind.retry_after
        with postgres(folder, port=port, durable=False):
            assert await eventually(lambda: is_available(pool))
            await pool.aclose()


async def test_time_limits_and_names_are_set_on_the_server(resources: Resources) -> None:
    async with db.connection(resources.pool) as connection:
        for name, value in db.LIMITS.items():
            assert await connection.fetchval("SELECT current_setting($1)", name) == value
        assert await connection.fetchval("SELECT current_setting('application_name')") == "commerce-tests"
    async with contextlib.aclosing(db.Pool(resources.settings, "commerce-tests", statement_seconds=300)) as pool:
        assert await on(pool).fetchval("SELECT current_setting('statement_timeout')") == "5min"


async def test_a_server_that_hangs_is_unavailable_to_all_callers_until_it_answers(settings: Settings) -> None:
    with scratch_folder() as folder, postgres(folder, durable=False) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        async with Proxy(port, statements) as proxy:
            through = url.replace(f":{port}/", f":{proxy.port}/")
            one = settings.model_copy(update={"database_url": through, "db_pool_size": 1})
            pool = db.Pool(one, "commerce-tests", statement_seconds=1)
            assert await run_transaction(pool, select_one) == 1
            server = family(int((folder / "pid").read_text()))
            for pid in server:
                os.kill(pid, SIGSTOP)
            try:
                with pytest.raises(ShopError) as refused:
                    await run_transaction(pool, select_one)
                # No further connection was opened to cancel the statement, which the server would not hear.
                assert (refused.value.code, proxy.accepted) == ("unavailable", 1)
                # The callers after it do not wait one after another.
                later = asyncio.gather(*(run_transaction(pool, select_one) for _ in range(20)), return_exceptions=True)
                assert {getattr(result, "code", result) for result in await later} == {"unavailable"}
            finally:
                for pid in server:
                    os.kill(pid, SIGCONT)
            assert await eventually(lambda: is_available(pool))
            await pool.aclose()


async def test_an_ignored_error_is_not_a_commit(resources: Resources) -> None:
    async def work(tx: db.Connection) -> None:
        with contextlib.suppress(asyncpg.PostgresError):
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(AssertionError):
        await run_transaction(resources.pool, work)


def causes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """The logged causes: class and SQLSTATE of each error."""
    records = [record for record in caplog.records if record.message == "database call failed"]
    assert {record.levelname for record in records} <= {"WARNING"}
    return [(record.__dict__["error"], record.__dict__["sqlstate"]) for record in records]


@contextlib.asynccontextmanager
async def refusing_tls() -> AsyncIterator[int]:
    """The port of a server that closes the connection when it is asked for TLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """The port of a server that accepts connections and never answers."""
    ended = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


@pytest.mark.parametrize(
    ("broken", "state", "cause"),
    [
        ("password", "login_refused", ("InvalidPasswordError", "28P01")),
        ("database", "login_refused", ("InvalidCatalogNameError", "3D000")),
        ("role", "login_refused", ("InvalidAuthorizationSpecificationError", "28000")),
        ("privilege", "login_refused", ("InsufficientPrivilegeError", "42501")),
        ("connections", "unreachable", ("TooManyConnectionsError", "53300")),
        ("port", "unreachable", ("ConnectionRefusedError", None)),
        ("name", "unreachable", ("gaierror", None)),
        ("tls", "unreachable", ("ConnectionError", None)),
        ("silence", "unreachable", ("TimeoutError", None)),
    ],
)
async def test_the_cause_of_an_unavailable_database_is_in_the_log_only(
    settings: Settings,
    stripe: StripeStandin,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    state: str,
    cause: tuple[str, str | None],
) -> None:
    """Readiness and a call answer 503 with a fixed state. Each of them and the start log the cause, without secrets."""
    url, name = urlsplit(settings.database_url), await database.fetchval("SELECT current_database()")
    host = url.netloc.rpartition("@")[2]
    async with contextlib.AsyncExitStack() as stack:
        if broken == "password":
            url = url._replace(netloc=f"commerce_app:c4nary@{host}")
        elif broken == "database":
            url = url._replace(path="/c4nary")
        elif broken == "role":
            await database.execute("CREATE ROLE nologin NOLOGIN PASSWORD 'c4nary'")
            stack.push_async_callback(database.execute, "DROP ROLE nologin")
            url = url._replace(netloc=f"nologin:c4nary@{host}")
        elif broken == "privilege":
            await database.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, commerce_app")
        elif broken == "connections":
            await database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        elif broken == "port":
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{free_port()}")
        elif broken == "name":
            url = url._replace(netloc="commerce_app:c4nary@nowhere.invalid")
        elif broken == "tls":
            port = await stack.enter_async_context(refusing_tls())
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{port}", query="sslmode=require")
        else:
            monkeypatch.setattr(db, "CONNECT_SECONDS", 0.2)
            monkeypatch.setattr(db, "REST_SECONDS", 0)
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{await stack.enter_async_context(silent())}")
        changed = settings.model_copy(update={"database_url": url.geturl()})
        caplog.set_level("INFO")
        shop = await stack.enter_async_context(Shop(await stack.enter_async_context(served(create_app(changed)))))

        async def has_reported() -> bool:
            return "process started" in caplog.messages

        await eventually(has_reported)
        ready = await shop.call("GET", "/health/ready", 503)
        created = await shop.call("POST", "/carts", 503)

    assert (ready["code"], ready["postgresql"]) == ("unavailable", state)
    assert (created["code"], created["postgresql"]) == ("unavailable", state)
    assert created["detail"].startswith("PostgreSQL ")
    assert causes(caplog) == [cause, cause, cause]
    assert "c4nary" not in f"{ready} {created}"


async def test_a_cause_is_logged_once_after_all_attempts(
    resources: Resources, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await create_counters(database)

    async with database.transaction():
        await database.execute("UPDATE counters SET n = 7 WHERE id = 1")
        with pytest.raises(ShopError):
            await run_transaction(resources.pool, increment)

    assert causes(caplog) == [("LockNotAvailableError", "55P03")]


async def test_an_unexpected_error_is_not_translated(resources: Resources, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with db.connection(resources.pool) as connection:
            await connection.execute("SELECT 1 / 0")
    # A missing privilege is our mistake. Its SQLSTATE is that of a refused login too.
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.connection(resources.pool) as connection:
            await connection.execute("DELETE FROM orders")
    assert causes(caplog) == []


async def test_a_silent_host_leaves_time_for_the_next_one(settings: Settings) -> None:
    async with silent() as port:
        login, _, host = settings.database_url.partition("://")[2].partition("@")
        url = f"postgresql://{login}@127.0.0.1:{port},{host}"
        changed = settings.model_copy(update={"database_url": url})
        async with contextlib.aclosing(db.Pool(changed, "commerce-tests")) as pool:
            assert await run_transaction(pool, select_one) == 1
            # The next connection tries the host that answered first.
            assert pool.addresses[1]["port"] == port


def test_a_server_can_be_verified_by_the_certificates_of_the_system() -> None:
    (address,) = db.read_addresses("postgresql://db.shop.test/shop?sslmode=verify-full&sslrootcert=system")

    assert (address["ssl"].verify_mode, address["ssl"].check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_a_read_only_role_needs_a_read_only_pool(settings: Settings, database_url: str) -> None:
    readonly = settings.model_copy(update={"database_url": login(database_url, "readonly")})
    async with contextlib.aclosing(db.Pool(readonly, "commerce-tests", read_only=True)) as pool:
        assert await run_transaction(pool, select_one) == 1
    async with contextlib.aclosing(db.Pool(readonly, "commerce-tests")) as pool:
        with pytest.raises(ShopError) as refused:
            await run_transaction(pool, select_one)
    assert (refused.value.code, refused.value.extra) == ("unavailable", {"postgresql": "read_only"})
