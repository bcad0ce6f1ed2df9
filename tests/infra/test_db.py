"""Transactions are retried whole where the server asks for it, and what they end in is an error of ours."""

import asyncio
import contextlib
import os
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
from tests.faults.proxy import Proxy, statements
from tests.faults.stage import family
from tests.queries import on

Work = Callable[[db.Connection], Awaitable[None]]


async def two_rows(database: asyncpg.Connection) -> None:
    await database.execute("CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    await database.execute("INSERT INTO counters (id) VALUES (1), (2)")
    await database.execute("GRANT ALL ON counters TO commerce_worker")


async def test_a_deadlock_is_retried_and_both_transactions_commit(
    resources: Resources, database: asyncpg.Connection
) -> None:
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

    await asyncio.gather(*(run_transaction(resources.pool, count_up(*order)) for order in ((1, 2), (2, 1))))
    assert len(tries) > 2
    assert await database.fetch("SELECT n FROM counters ORDER BY id") == [(2,), (2,)]


async def test_a_lock_that_is_not_had_is_busy_and_the_connection_is_clean(
    resources: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
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
            await run_transaction(resources.pool, work)
    assert (refused.value.code, tries) == ("busy", transactions.ATTEMPTS)
    await run_transaction(resources.pool, work)
    assert await database.fetchval("SELECT n FROM counters WHERE id = 1") == 8


async def test_a_plan_made_void_by_a_migration_is_made_anew(resources: Resources, database: asyncpg.Connection) -> None:
    await two_rows(database)

    async def work(tx: db.Connection) -> asyncpg.Record:
        return await tx.fetchrow("SELECT * FROM counters WHERE id = 1")

    assert len(await run_transaction(resources.pool, work)) == 2
    await database.execute("ALTER TABLE counters ADD COLUMN more integer")
    assert len(await run_transaction(resources.pool, work)) == 3


async def ask(tx: db.Connection) -> int:
    return int(await tx.fetchval("SELECT 1"))


async def answers(pool: db.Pool) -> bool:
    try:
        return await run_transaction(pool, ask) == 1
    except ShopError:
        return False


async def test_without_a_server_it_is_unavailable_and_recovers_by_itself(settings: Settings) -> None:
    with scratch_folder() as folder:
        with postgres(folder, durable=False) as url:
            port = int(url.rpartition(":")[2].partition("/")[0])
            changed = settings.model_copy(update={"database_url": url})
            pool = db.Pool(changed, "commerce-tests")
            assert await run_transaction(pool, ask) == 1
        with pytest.raises(ShopError) as refused:
            await run_transaction(pool, ask)
        assert refused.value.code == "unavailable"
        assert refused.value.kind.retry_after
        with postgres(folder, port=port, durable=False):
            assert await eventually(lambda: answers(pool))
            await pool.aclose()


async def test_time_limits_and_names_are_set_on_the_server(resources: Resources) -> None:
    async with db.connection(resources.pool) as connection:
        for name, value in db.LIMITS.items():
            assert await connection.fetchval("SELECT current_setting($1)", name) == value
        assert await connection.fetchval("SELECT current_setting('application_name')") == "commerce-tests"
    async with contextlib.aclosing(db.Pool(resources.settings, "commerce-tests", statement_seconds=300)) as pool:
        assert await on(pool).fetchval("SELECT current_setting('statement_timeout')") == "5min"


async def test_a_server_that_hangs_is_told_to_everybody_while_it_hangs(settings: Settings) -> None:
    with scratch_folder() as folder, postgres(folder, durable=False) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        async with Proxy(port, statements) as proxy:
            through = url.replace(f":{port}/", f":{proxy.port}/")
            one = settings.model_copy(update={"database_url": through, "db_pool_size": 1})
            pool = db.Pool(one, "commerce-tests", statement_seconds=1)
            assert await run_transaction(pool, ask) == 1
            server = family(int((folder / "pid").read_text()))
            for pid in server:
                os.kill(pid, SIGSTOP)
            try:
                with pytest.raises(ShopError) as told:
                    await run_transaction(pool, ask)
                # It was not asked over another connection to forget the question, which it would not hear.
                assert (told.value.code, proxy.accepted) == ("unavailable", 1)
                # And nobody who comes next waits for it in turn.
                waiting = asyncio.gather(*(run_transaction(pool, ask) for _ in range(20)), return_exceptions=True)
                assert {getattr(answer, "code", answer) for answer in await waiting} == {"unavailable"}
            finally:
                for pid in server:
                    os.kill(pid, SIGCONT)
            assert await eventually(lambda: answers(pool))
            await pool.aclose()


async def test_a_swallowed_error_is_no_commit(resources: Resources) -> None:
    async def work(tx: db.Connection) -> None:
        with contextlib.suppress(asyncpg.PostgresError):
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(AssertionError):
        await run_transaction(resources.pool, work)


def causes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """The causes that were logged: the error's class and its SQLSTATE."""
    records = [record for record in caplog.records if record.message == "database call failed"]
    assert {record.levelname for record in records} <= {"WARNING"}
    return [(record.__dict__["error"], record.__dict__["sqlstate"]) for record in records]


@contextlib.asynccontextmanager
async def refusing_tls() -> AsyncIterator[int]:
    """The port of a server that hangs up as soon as it is asked for TLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """The port of a server that takes connections and says nothing."""
    ended = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


@pytest.mark.parametrize(
    ("what", "word", "cause"),
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
async def test_a_database_that_is_not_there_says_why_in_the_log_alone(
    settings: Settings,
    stripe: StripeStandin,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    word: str,
    cause: tuple[str, str | None],
) -> None:
    """Readiness and an ordinary call answer 503 with a fixed word; the cause is logged once a call, without secrets."""
    url, name = urlsplit(settings.database_url), await database.fetchval("SELECT current_database()")
    host = url.netloc.rpartition("@")[2]
    async with contextlib.AsyncExitStack() as stack:
        if what == "password":
            url = url._replace(netloc=f"commerce_app:c4nary@{host}")
        elif what == "database":
            url = url._replace(path="/c4nary")
        elif what == "role":
            await database.execute("CREATE ROLE nologin NOLOGIN PASSWORD 'c4nary'")
            stack.push_async_callback(database.execute, "DROP ROLE nologin")
            url = url._replace(netloc=f"nologin:c4nary@{host}")
        elif what == "privilege":
            await database.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, commerce_app")
        elif what == "connections":
            await database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        elif what == "port":
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{free_port()}")
        elif what == "name":
            url = url._replace(netloc="commerce_app:c4nary@nowhere.invalid")
        elif what == "tls":
            port = await stack.enter_async_context(refusing_tls())
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{port}", query="sslmode=require")
        else:
            monkeypatch.setattr(db, "CONNECT_SECONDS", 0.2)
            monkeypatch.setattr(db, "REST_SECONDS", 0)
            url = url._replace(netloc=f"commerce_app:c4nary@127.0.0.1:{await stack.enter_async_context(silent())}")
        changed = settings.model_copy(update={"database_url": url.geturl()})
        shop = await stack.enter_async_context(Shop(await stack.enter_async_context(served(create_app(changed)))))

        ready = await shop.call("GET", "/health/ready", 503)
        created = await shop.call("POST", "/carts", 503)

    assert (ready["code"], ready["postgresql"]) == ("unavailable", word)
    assert (created["code"], created["postgresql"]) == ("unavailable", word)
    assert created["detail"].startswith("PostgreSQL ")
    assert causes(caplog) == [cause, cause]
    assert "c4nary" not in f"{ready} {created}"


async def test_a_cause_is_logged_once_however_often_it_was_tried(
    resources: Resources, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await two_rows(database)

    async def work(tx: db.Connection) -> None:
        await tx.execute("SET LOCAL lock_timeout = '20ms'")
        await tx.execute("UPDATE counters SET n = n + 1 WHERE id = 1")

    async with database.transaction():
        await database.execute("UPDATE counters SET n = 7 WHERE id = 1")
        with pytest.raises(ShopError):
            await run_transaction(resources.pool, work)
    assert causes(caplog) == [("LockNotAvailableError", "55P03")]


async def test_an_error_that_is_not_known_stays_what_it_is(
    resources: Resources, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with db.connection(resources.pool) as connection:
            await connection.execute("SELECT 1 / 0")
    # A privilege that a statement lacks is our mistake, not a login that is refused.
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.connection(resources.pool) as connection:
            await connection.execute("DELETE FROM orders")
    assert causes(caplog) == []


async def test_a_host_that_is_silent_leaves_time_for_the_next_one(settings: Settings) -> None:
    async with silent() as port:
        login, _, host = settings.database_url.partition("://")[2].partition("@")
        url = f"postgresql://{login}@127.0.0.1:{port},{host}"
        changed = settings.model_copy(update={"database_url": url})
        async with contextlib.aclosing(db.Pool(changed, "commerce-tests")) as pool:
            assert await run_transaction(pool, ask) == 1
            # The next connection goes to the one that answered.
            assert f"@127.0.0.1:{port}/" in pool.urls[1]


async def test_a_read_only_role_needs_a_read_only_pool(settings: Settings, database_url: str) -> None:
    readonly = settings.model_copy(update={"database_url": login(database_url, "readonly")})
    async with contextlib.aclosing(db.Pool(readonly, "commerce-tests", read_only=True)) as pool:
        assert await run_transaction(pool, ask) == 1
    async with contextlib.aclosing(db.Pool(readonly, "commerce-tests")) as pool:
        with pytest.raises(ShopError) as refused:
            await run_transaction(pool, ask)
    assert (refused.value.code, refused.value.extra) == ("unavailable", {"postgresql": "read_only"})
