"""Failover: PostgreSQL and Redis switch to their standbys, and sales go on at the new primary by themselves."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis.asyncio

from service.app import create_app
from service.dev.processes import spawn, stop
from service.dev.roles import make_roles
from service.dev.servers import free_port, scratch_folder, valkey
from service.dev.stripe_standin import StripeStandin
from service.infra import health
from service.infra.db import connection
from service.infra.migrations import migrate
from service.infra.queue import QUEUE
from service.infra.resources import Resources, open_resources
from service.settings import Settings
from service.worker import work
from tests.client import Shop, eventually
from tests.conftest import PASSWORDS, WEBHOOK_SECRET, login, served
from tests.faults.pair import Pair, pair
from tests.faults.proxy import Proxy, anything
from tests.tools import require_programs

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BUYERS = 4


@pytest.fixture
async def databases() -> AsyncIterator[Pair]:
    """A primary with our tables and its standby."""
    with scratch_folder() as folder, pair(folder) as both:
        make_roles(both.urls["a"], PASSWORDS)
        await migrate(login(both.urls["a"], "owner"))
        both.copy()
        yield both


def settings_of(stripe: StripeStandin, database_url: str, redis_url: str, **others: str) -> Settings:
    return Settings.load(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "STRIPE_API_KEY": "sk_test_tests",
            "STRIPE_API_BASE": stripe.api_base,  # type: ignore[attr-defined]
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "MAX_PENDING_PER_CLIENT": "0",
            "DB_POOL_SIZE": "4",
            **others,
        }
    )


class Sales:
    """Buyers at work, and the orders acknowledged to them."""

    def __init__(self, shop: Shop, product: int) -> None:
        self.shop, self.product = shop, product
        self.orders: list[str] = []
        self.unexpected: list[str] = []
        self._buyers = [asyncio.create_task(self._buy()) for _ in range(BUYERS)]

    async def end(self) -> None:
        for buyer in self._buyers:
            buyer.cancel()
        await asyncio.gather(*self._buyers, return_exceptions=True)

    async def wait_for_progress(self) -> None:
        """Return once more orders are acknowledged than were already in progress."""
        goal = len(self.orders) + 2 * BUYERS

        async def enough() -> bool:
            return len(self.orders) >= goal

        await eventually(enough, 40)

    async def _buy(self) -> None:
        while True:
            cart = await self._ask("/carts")
            await self._ask(f"/carts/{cart['id']}/items", {"product_id": self.product, "quantity": 1})
            self.orders.append((await self._ask(f"/carts/{cart['id']}/checkout"))["order_id"])

    async def _ask(self, path: str, body: Any = None) -> Any:
        key = {"Idempotency-Key": uuid4().hex}
        while True:
            answer = await self.shop.http.post(path, json=body, headers=key)
            if answer.status_code in (200, 201):
                return answer.json()
            if answer.status_code != 503 and answer.json()["code"] not in IN_PROGRESS:
                self.unexpected.append(answer.text)
            await asyncio.sleep(0.05)


# The codes of a request whose earlier try still has the claim or the key.
IN_PROGRESS = ("checkout_in_progress", "idempotency_key_in_use")


async def readiness(shop: Shop) -> tuple[int, str]:
    answer = await shop.http.get("/health/ready")
    return answer.status_code, answer.json()["postgresql"]


async def wait_for_readiness(shop: Shop, *expected: Any) -> None:
    async def is_expected() -> bool:
        return await readiness(shop) == expected

    await eventually(is_expected)


async def assert_all_stored(sales: Sales, url: str) -> None:
    """Every acknowledged order is on this server, and no answer was unexpected."""
    await sales.end()
    server = await asyncpg.connect(url)
    stored = {row["id"] for row in await server.fetch("SELECT id FROM orders")}
    await server.close()
    assert {order for order in sales.orders if UUID(order) not in stored} == set()
    assert sales.unexpected == []


async def test_sales_go_on_at_the_other_host_after_a_switchover(
    databases: Pair, stripe: StripeStandin, redis_url: str
) -> None:
    """The URL names both hosts. The primary is stopped, the standby promoted, the old primary becomes its standby."""
    two_hosts = login(databases.hosts(), "app")
    async with served(create_app(settings_of(stripe, two_hosts, redis_url))) as url, Shop(url) as shop:
        sales = Sales(shop, (await shop.create_product(stock=1_000_000))["id"])
        await sales.wait_for_progress()

        await asyncio.to_thread(databases.stop, "a")
        await wait_for_readiness(shop, 503, "read_only")
        databases.promote("b")
        databases.follow("a", "b")
        await sales.wait_for_progress()

        assert await readiness(shop) == (200, "ok")
        await assert_all_stored(sales, databases.urls["b"])


async def test_a_demoted_server_is_left_though_its_connections_stay_open(
    databases: Pair, stripe: StripeStandin, redis_url: str
) -> None:
    """The URL names one address, which moves from the demoted primary to the promoted standby."""
    async with Proxy(databases.ports["a"], anything) as proxy:
        one = login(databases.urls["a"], "app").replace(f":{databases.ports['a']}/", f":{proxy.port}/")
        async with served(create_app(settings_of(stripe, one, redis_url))) as url, Shop(url) as shop:
            sales = Sales(shop, (await shop.create_product(stock=1_000_000))["id"])
            await sales.wait_for_progress()

            databases.demote("a")
            await wait_for_readiness(shop, 503, "read_only")
            refused = (await shop.http.post("/carts")).json()
            assert (refused["code"], refused["postgresql"]) == ("unavailable", "read_only")
            assert "read-only" in refused["detail"]
            databases.promote("b")
            proxy.to = databases.ports["b"]
            await sales.wait_for_progress()

            assert await readiness(shop) == (200, "ok")
            await assert_all_stored(sales, databases.urls["b"])


async def test_the_server_that_a_name_leads_to_now_is_used(
    databases: Pair, stripe: StripeStandin, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL has a host's name, which moves to the promoted standby. The demoted primary keeps its connections."""
    addresses, getaddrinfo = {"db.shop.test": "127.0.0.1"}, socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        return getaddrinfo(addresses.get(host, host), *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with (
        Proxy(databases.ports["a"], anything) as first,
        Proxy(databases.ports["b"], anything, host="127.0.0.2", listen=first.port),
    ):
        address = f"127.0.0.1:{databases.ports['a']}"
        name = login(databases.urls["a"], "app").replace(address, f"db.shop.test:{first.port}")
        async with served(create_app(settings_of(stripe, name, redis_url))) as url, Shop(url) as shop:
            sales = Sales(shop, (await shop.create_product(stock=1_000_000))["id"])
            await sales.wait_for_progress()

            databases.demote("a")
            await wait_for_readiness(shop, 503, "read_only")
            databases.promote("b")
            addresses["db.shop.test"] = "127.0.0.2"
            await sales.wait_for_progress()

            async def has_no_connections() -> bool:
                return not first.links

            await eventually(has_no_connections)
            assert await readiness(shop) == (200, "ok")
            await assert_all_stored(sales, databases.urls["b"])


@asynccontextmanager
async def health_check(url: str) -> AsyncIterator[int]:
    """Patroni's check: 200 while this server takes writes, else 503. Its port."""

    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        status = b"503 Service Unavailable"
        # HAProxy may have been stopped in the middle of its check.
        with suppress(OSError, EOFError, asyncpg.PostgresError):
            await reader.readuntil(b"\r\n\r\n")
            server = await asyncpg.connect(url, timeout=1)
            if await server.fetchval("SHOW transaction_read_only") == "off":
                status = b"200 OK"
            await server.close()
        writer.write(b"HTTP/1.0 %b\r\n\r\n" % status)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*filter(None, answering))


@asynccontextmanager
async def haproxy(databases: Pair) -> AsyncIterator[int]:
    """HAProxy in front of both servers, configured as docs/operations.md says; its port."""
    (program,) = require_programs("haproxy")
    lines, port = re.search(r"    defaults\n(    .*\n)+", OPERATIONS), free_port()
    assert lines is not None
    config = lines[0].replace("bind :5432", f"bind 127.0.0.1:{port}")
    async with health_check(databases.urls["a"]) as a, health_check(databases.urls["b"]) as b:
        for server, name, check in (("db1", "a", a), ("db2", "b", b)):
            address = f"{server} 127.0.0.1:{databases.ports[name]} check port {check}"
            config = config.replace(f"{server} {server}.internal:5432 check port 8008", address)
        with scratch_folder() as folder:
            (folder / "haproxy.cfg").write_text(config)
            process = spawn([program, "-db", "-f", folder / "haproxy.cfg"], folder / "log")

            async def knows_the_standby() -> bool:
                return "Server postgresql/db2 is DOWN" in (folder / "log").read_text()

            try:
                # Before its first checks it takes both for primaries.
                await eventually(knows_the_standby)
                yield port
            finally:
                stop(process)


@pytest.mark.parametrize("demoted", [False, True], ids=["killed", "demoted"])
async def test_sales_go_on_behind_haproxy(
    databases: Pair, stripe: StripeStandin, redis_url: str, demoted: bool
) -> None:
    """The URL names HAProxy, which finds the primary by its check."""
    async with haproxy(databases) as port:
        one = login(databases.urls["a"], "app").replace(f":{databases.ports['a']}/", f":{port}/")
        async with served(create_app(settings_of(stripe, one, redis_url))) as url, Shop(url) as shop:
            await wait_for_readiness(shop, 200, "ok")
            sales = Sales(shop, (await shop.create_product(stock=1_000_000))["id"])
            await sales.wait_for_progress()

            await asyncio.to_thread(databases.demote if demoted else databases.kill, "a")
            databases.promote("b")
            await sales.wait_for_progress()

            await wait_for_readiness(shop, 200, "ok")
            await assert_all_stored(sales, databases.urls["b"])


async def test_readers_leave_a_demoted_server(databases: Pair, stripe: StripeStandin, redis_url: str) -> None:
    """Without writes only the readiness check can notice it; no connection stays with the demoted server."""

    async def read_only_settings(resources: Resources) -> list[str]:
        """Whether each of three connections is to a read-only server."""
        async with (
            connection(resources.pool) as one,
            connection(resources.pool) as two,
            connection(resources.pool) as three,
        ):
            query = "SELECT current_setting('transaction_read_only')"
            return [await each.fetchval(query) for each in (one, two, three)]

    async with Proxy(databases.ports["a"], anything) as proxy:
        one = login(databases.urls["a"], "app").replace(f":{databases.ports['a']}/", f":{proxy.port}/")
        async with open_resources(settings_of(stripe, one, redis_url), "commerce-tests") as resources:
            assert await read_only_settings(resources) == ["off", "off", "off"]
            databases.demote("a")
            databases.promote("b")
            proxy.to = databases.ports["b"]

            async def is_noticed() -> bool:
                return (await health.check(resources))["postgresql"] == "read_only"

            # One connection notices it; all connections are then replaced.
            await eventually(is_noticed)
            assert await read_only_settings(resources) == ["off", "off", "off"]


class Valkeys:
    """Two Valkeys, the second a replica of the first, behind one address."""

    def __init__(self, proxy: Proxy, first: redis.asyncio.Redis, second: redis.asyncio.Redis) -> None:
        self.proxy, self.first, self.second = proxy, first, second
        self.url = f"redis://127.0.0.1:{proxy.port}/0"

    async def demote(self) -> None:
        """Make the first the replica of the second; connections to it stay open."""
        await self.second.replicaof("NO", "ONE")
        address = self.second.connection_pool.connection_kwargs
        await self.first.replicaof(address["host"], address["port"])

    async def count_connections_to_first(self) -> int:
        """How many connections the service has to the first."""
        # One connection is the test's.
        return len(await self.first.client_list(_type="normal")) - 1


@pytest.fixture
async def valkeys() -> AsyncIterator[Valkeys]:
    ports = [free_port(), free_port()]
    with (
        scratch_folder() as folder,
        valkey(folder / "a", port=ports[0], durable=False) as a,
        valkey(folder / "b", port=ports[1], durable=False) as b,
    ):
        async with (
            Proxy(ports[0], anything) as proxy,
            redis.asyncio.Redis.from_url(a) as first,
            redis.asyncio.Redis.from_url(b) as second,
        ):
            await second.replicaof("127.0.0.1", ports[0])
            yield Valkeys(proxy, first, second)


def redis_is(shop: Shop, state: str) -> Callable[[], Any]:
    async def is_in_state() -> bool:
        # The service is ready whatever the state of Redis.
        return (await shop.call("GET", "/health/ready", 200))["redis"] == state

    return is_in_state


async def test_every_connection_leaves_a_demoted_redis(
    valkeys: Valkeys, settings: Settings, stripe: StripeStandin
) -> None:
    """The page cache, the queue and rate counting all use the new primary afterwards."""
    changed = settings.model_copy(update={"redis_url": valkeys.url, "rate_limit_per_minute": 100_000})
    async with served(create_app(changed)) as url, Shop(url) as shop:
        tent = await shop.create_product(stock=100_000)
        await asyncio.gather(*(shop.call("GET", "/products", 200) for _ in range(20)))
        assert await valkeys.count_connections_to_first() >= 2

        await valkeys.demote()
        await eventually(redis_is(shop, "read_only"))
        valkeys.proxy.to = valkeys.second.connection_pool.connection_kwargs["port"]
        await eventually(redis_is(shop, "ok"))

        assert await valkeys.count_connections_to_first() == 0
        await valkeys.second.flushall()

        async def everything_is_written() -> bool:
            # The circuit breaker skips calls to Redis for a second after a failure.
            await shop.checked_out_cart((tent["id"], 1))
            await shop.call("GET", "/products", 200)
            keys = b" ".join(await valkeys.second.keys())
            names = (b"rate:", b"catalogue:generation", b"arq:job:expire_cart_later:")
            return all(name in keys for name in names)

        await eventually(everything_is_written)
        assert await valkeys.count_connections_to_first() == 0


async def test_the_worker_leaves_a_demoted_redis_in_which_nothing_is_queued(
    valkeys: Valkeys, settings: Settings, worker_settings: Settings, stripe: StripeStandin
) -> None:
    # Only a job from Redis can fulfil the order in time: the next sweep is an hour away.
    changes = {"redis_url": valkeys.url, "sweep_seconds": 3600}
    stopping = asyncio.Event()
    working = asyncio.create_task(work(worker_settings.model_copy(update=changes), stopping))
    try:
        # The worker has written its first health check.
        await eventually(lambda: valkeys.first.exists(f"{QUEUE}:health-check"))
        await valkeys.demote()
        valkeys.proxy.to = valkeys.second.connection_pool.connection_kwargs["port"]

        async def worker_has_left() -> bool:
            return await valkeys.count_connections_to_first() == 0

        await eventually(worker_has_left)
        async with served(create_app(settings.model_copy(update=changes))) as url, Shop(url) as shop:
            stripe.webhook_url = f"{url}/webhooks/stripe"
            placed_order = await shop.checked_out_cart()

            stripe.pay(placed_order["payment"]["stripe_session_id"])

            await shop.wait_for_order(placed_order["order_id"], "FULFILLED")
    finally:
        stopping.set()
        await working
