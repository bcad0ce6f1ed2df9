"""Real servers on real ports for the tests: PostgreSQL, Redis or Valkey, the Stripe stand-in and the API.

TEST_DATABASE_URL and TEST_REDIS_URL name PostgreSQL and Redis. Otherwise they are containers where a Docker engine
answers, else the embedded servers. Every test has its own database, cloned from a migrated template, and commits.
"""

import asyncio
import contextlib
import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import docker
import psycopg
import pytest
import redis
import uvicorn
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from service.app import create_app
from service.dev import roles
from service.dev.servers import postgres, scratch_folder, valkey
from service.dev.stripe_standin import StripeStandin
from service.http.server.protocol import UVICORN
from service.infra.migrations import migrate
from service.infra.resources import Resources, open_resources
from service.settings import Settings
from service.worker import work
from tests.client import Shop
from tests.tools import MISSING

WEBHOOK_SECRET = "whsec_of_the_tests"
TEMPLATE = "commerce_template"
# Of the service's roles. Roles belong to the whole server: existing ones get these passwords, too.
PASSWORDS = {role: f"of_{role}" for role in roles.ROLES}

POSTGRES, VALKEY = "postgres:18", "valkey/valkey:9"
# For a laptop: more processes would want more memory than time is saved.
MOST_PROCESSES = 5
SERVERS = pytest.StashKey[set[str]]()
# The running servers, by their applications' URLs.
SERVED: dict[str, "Server"] = {}
# The cloned databases, by their servers' URLs.
CLONES: dict[str, "Clones"] = {}


def docker_has(*images: str) -> bool:
    """Whether a Docker engine answers that has these images or can pull them."""
    with contextlib.suppress(docker.errors.DockerException, OSError):
        if "DOCKER_HOST" not in os.environ:
            # Try the socket first: the client does not close a socket whose connection is refused.
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect("/var/run/docker.sock")
        with contextlib.closing(docker.from_env(version="1.41")) as client:
            for image in images:
                if not client.images.list(image):
                    client.images.pull(image)
            return True
    return False


def container(stack: ExitStack, image: str, port: int, environment: dict[str, str], command: str) -> str:
    """Start a container until the tests end; its `host:port`."""
    # Without the reaper, which needs another image: the stack stops the container.
    testcontainers_config.ryuk_disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server = DockerContainer(image, command=command).with_envs(**environment).with_exposed_ports(port)
        # PostgreSQL's image prints this line once while it initialises, and again when it is ready.
        times = 2 if environment else 1
        server.waiting_for(LogMessageWaitStrategy("eady to accept connections", times))
        stack.enter_context(server)
        return f"{server.get_container_host_ip()}:{server.get_exposed_port(port)}"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[tuple[str, str]]:
    """The URLs of PostgreSQL (as a superuser) and Redis."""
    database_url, redis_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    used = pytestconfig.stash.setdefault(SERVERS, set())
    with ExitStack() as stack:
        in_docker = not (database_url and redis_url) and docker_has(POSTGRES, VALKEY)
        folder = stack.enter_context(scratch_folder())
        if database_url is not None:
            used.add("PostgreSQL by TEST_DATABASE_URL")
        elif in_docker:
            locale = "--encoding=UTF8 --locale=C --lc-ctype=C.UTF-8"
            environment = {"POSTGRES_PASSWORD": "tests", "POSTGRES_INITDB_ARGS": locale}
            command = "postgres -c fsync=off -c max_connections=300"
            database_url = (
                f"postgresql://postgres:tests@{container(stack, POSTGRES, 5432, environment, command)}/postgres"
            )
            used.add(f"PostgreSQL in a container of {POSTGRES}")
        else:
            options = {"max_connections": "300"}
            database_url = stack.enter_context(postgres(folder / "postgres", durable=False, options=options))
            used.add("PostgreSQL embedded")
        if redis_url is not None:
            used.add("Redis by TEST_REDIS_URL")
        elif in_docker:
            # With the protected mode of some images, clients outside the container cannot connect.
            address = container(stack, VALKEY, 6379, {}, "valkey-server --protected-mode no")
            redis_url = f"redis://{address}/0"
            used.add(f"Valkey in a container of {VALKEY}")
        else:
            redis_url = stack.enter_context(valkey(folder / "valkey", durable=False))
            used.add("Valkey embedded")
        yield database_url, redis_url


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for `-n auto`: one more than there are cores, as many tests wait for processes that they started.

    Each has servers of its own, so named servers are for a single one.
    """
    shared = {"TEST_DATABASE_URL", "TEST_REDIS_URL"} & os.environ.keys()
    return 0 if shared else min((os.cpu_count() or 1) + 1, MOST_PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Remember what a process of `-n` has used and missed; it sent this when it ended."""
    output = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(SERVERS, set()).update(output.get("servers", []))
    MISSING.update(output.get("missing", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output.update(servers=sorted(session.config.stash.get(SERVERS, set())), missing=sorted(MISSING))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the servers that were used, and the missing programs whose tests were skipped."""
    if used := config.stash.get(SERVERS, set()):
        terminalreporter.write_line(f"on {', '.join(sorted(used))}")
    if MISSING:
        terminalreporter.write_line(f"missing tools, whose tests were skipped: {', '.join(sorted(MISSING))}")


class Clones:
    """Databases cloned from the template: each is created during the test before its own, and dropped after it.

    Creating a clone keeps only the server busy. If each test waited for it, most tests would take twice as long.
    """

    def __init__(self, server_url: str) -> None:
        self._server = psycopg.connect(server_url, autocommit=True)
        # One thread, as one connection runs all statements.
        self._thread = ThreadPoolExecutor(1)
        self._drops: list[Future[None]] = []
        self._next = self._thread.submit(self._create)

    def take(self) -> Future[str]:
        """The name of an unused database."""
        clone, self._next = self._next, self._thread.submit(self._create)
        return clone

    def drop(self, name: str) -> None:
        """Drop a database soon."""
        self._drops.append(self._thread.submit(self._drop, name))

    def end(self) -> None:
        """Drop the unused database. Raises the errors of all drops."""
        self.drop(self._next.result())
        self._thread.shutdown()
        self._server.close()
        for drop in self._drops:
            drop.result()

    def _create(self) -> str:
        name = f"test_{uuid4().hex}"
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER commerce_owner STRATEGY file_copy")
        return name

    def _drop(self, name: str) -> None:
        self._server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def template(servers: tuple[str, str]) -> Iterator[str]:
    """The migrated database that the tests' databases are cloned from; its server's URL."""

    async def create() -> None:
        server = await asyncpg.connect(servers[0])
        await server.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
        await server.execute(f"CREATE DATABASE {TEMPLATE}")
        await server.close()

    asyncio.run(create())
    url = with_database(servers[0], TEMPLATE)
    roles.make_roles(url, PASSWORDS)
    asyncio.run(migrate(login(url, "owner")))
    CLONES[servers[0]] = Clones(servers[0])
    yield servers[0]
    CLONES.pop(servers[0]).end()


def with_database(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def login(url: str, role: str) -> str:
    """The URL of the same database for a role: owner, app, worker or readonly."""
    return roles.login(url, f"commerce_{role}", PASSWORDS[f"commerce_{role}"])


@asynccontextmanager
async def cloned(template: str) -> AsyncIterator[str]:
    """A migrated database until the block ends; its URL, as a superuser."""
    clones = CLONES[template]
    name = await asyncio.wrap_future(clones.take())
    try:
        yield with_database(template, name)
    finally:
        clones.drop(name)


@pytest.fixture(autouse=True, scope="session")
def no_pauses() -> Iterator[None]:
    """Jobs ask the stand-in without the pauses that Stripe's rate limit needs, and audits leave no time to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.infra.stripe.SECONDS_BETWEEN_PAGES", 0.0)
        patch.setattr("service.shop.audit.PAUSE", 0.0)
        yield


@pytest.fixture
async def database_url(template: str) -> AsyncIterator[str]:
    """The migrated database of this test; its URL, as a superuser."""
    async with cloned(template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to this test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def redis_url(servers: tuple[str, str]) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(servers[1]) as client:
        client.flushdb()
    return servers[1]


class Server(uvicorn.Server):
    """A uvicorn server that ends at once: the original checks ten times a second, and then sleeps as long."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(50):
            if not self.server_state.connections and not self.server_state.tasks:
                await self.lifespan.shutdown()
                return
            await asyncio.sleep(0.001)
        await super().shutdown(sockets)


@asynccontextmanager
async def served(app: Callable[..., Awaitable[None]], port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI application on a real port until the block ends; its URL."""
    config = uvicorn.Config(app, port=port, timeout_graceful_shutdown=1, **UVICORN)
    server = Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        if serving.done():
            serving.result()
        await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    SERVED[url] = server
    try:
        yield url
    finally:
        SERVED.pop(url).end()
        await serving


@pytest.fixture
async def stripe() -> AsyncIterator[StripeStandin]:
    """Stripe's stand-in; `api_base` is the URL of its API."""
    standin = StripeStandin(webhook_secret=WEBHOOK_SECRET)
    async with served(standin.app) as url:
        standin.api_base = url  # type: ignore[attr-defined]
        yield standin


@pytest.fixture
def webhooks_dropped(stripe: StripeStandin) -> None:
    """Stripe delivers no webhook by itself: the test delivers the events that it wants, when it wants."""
    stripe.set_webhooks(drop=True)


@pytest.fixture
def changed_settings() -> dict[str, str]:
    """Settings that a module or test overrides, by their environment names."""
    return {}


@pytest.fixture
def settings(database_url: str, redis_url: str, stripe: StripeStandin, changed_settings: dict[str, str]) -> Settings:
    """The settings of the API, with its role."""
    return Settings.load(
        {
            "DATABASE_URL": login(database_url, "app"),
            "MIGRATE_DATABASE_URL": login(database_url, "owner"),
            "REDIS_URL": redis_url,
            "STRIPE_API_KEY": "sk_test_tests",
            "STRIPE_API_BASE": stripe.api_base,  # type: ignore[attr-defined]
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRIPE_TIMEOUT_SECONDS": "5",
            "SWEEP_SECONDS": "0.2",
            # All requests of a test come from one address.
            "MAX_PENDING_PER_CLIENT": "0",
            **changed_settings,
        }
    )


@pytest.fixture
def worker_settings(settings: Settings, database_url: str) -> Settings:
    """The settings of the worker, with its role."""
    return settings.model_copy(update={"database_url": login(database_url, "worker")})


@pytest.fixture
def environ(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """An environment with the settings of the API and a temporary folder."""
    (tmp_path / "tmp").mkdir()
    names = {name.upper() for name in Settings.model_fields}
    own = {
        name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    others = {name: value for name, value in os.environ.items() if name not in names}
    return {**others, **own, "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture
async def shop(settings: Settings, stripe: StripeStandin) -> AsyncIterator[Shop]:
    """A client of the API, which runs on its own port and gets Stripe's webhooks."""
    async with served(create_app(settings)) as url:
        stripe.webhook_url = f"{url}/webhooks/stripe"
        async with Shop(url) as client:
            yield client
        # Stop both servers at the same time, as each takes a while.
        SERVED[stripe.api_base].end()  # type: ignore[attr-defined]


@pytest.fixture
async def resources(worker_settings: Settings) -> AsyncIterator[Resources]:
    """The resources of a job."""
    async with open_resources(worker_settings, "commerce-tests") as opened:
        yield opened


@pytest.fixture
async def api_resources(settings: Settings) -> AsyncIterator[Resources]:
    """The resources of a request."""
    async with open_resources(settings, "commerce-tests") as opened:
        yield opened


@pytest.fixture
async def worker(worker_settings: Settings) -> AsyncIterator[None]:
    """The worker, running beside the test."""
    stopping = asyncio.Event()
    working = asyncio.create_task(work(worker_settings, stopping))
    yield
    stopping.set()
    await working
