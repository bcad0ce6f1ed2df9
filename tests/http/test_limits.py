"""Limits for one client: how it is recognised behind proxies, its requests a minute, its unpaid orders."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import httpx
import pytest
import redis

from service.app import create_app
from service.dev.servers import free_port, scratch_folder, valkey
from service.dev.stripe_standin import StripeStandin
from service.infra import rate_limit
from service.infra.clients import Clients
from service.infra.db import Pool
from service.infra.resources import Resources
from service.settings import Settings
from service.shop import access
from tests.client import ADMIN_TOKEN, Shop, is_problem
from tests.conftest import login, served
from tests.database import end_hold, wait_for_blocked
from tests.provider import AUDIENCE, Provider, bearer
from tests.stripe_events import deliver, make_event

ONE, OTHER = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
ROOT = Path(__file__).parents[2]
TENT = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1000}
PROXIES = "10.0.0.0/8, 127.0.0.1, fd00::/8"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        # The header of a peer that is not our proxy is ignored.
        ("203.0.113.5", ["192.0.2.1"], "203.0.113.5"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["198.51.100.9,192.0.2.1 , 10.9.9.9"], "192.0.2.1"),
        ("10.1.2.3", ["198.51.100.9", "192.0.2.1", "10.9.9.9"], "192.0.2.1"),
        ("10.1.2.3", ["10.7.7.7, 10.9.9.9"], "10.7.7.7"),
        ("10.1.2.3", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.1.2.3", ["192.0.2.1, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["192.0.2.1, ,10.9.9.9"], "10.9.9.9"),
        ("10.1.2.3", ["192.0.2.1, 10.9.9.999"], "10.1.2.3"),
        ("10.1.2.3", ["\xe9\x00"], "10.1.2.3"),
        ("fd00::1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("fd00::1", ["[2001:db8:1:2::7]:443"], "2001:db8:1:2::/64"),
        ("fd00::1", ["[2001:db8:1:2::7]"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", ["192.0.2.1"], "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", ["::ffff:192.0.2.1"], "192.0.2.1"),
        (None, ["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
        (None, ["192.0.2.1, 10.9.9.9"], "192.0.2.1"),
        (None, [], None),
        ("testclient", ["192.0.2.1"], None),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_our_proxy(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    headers = [(b"host", b"shop"), *((b"x-forwarded-for", hops.encode("latin-1")) for hops in forwarded)]
    scope = {"type": "http", "client": peer and (peer, 4711), "headers": headers}
    clients, others = (
        Clients(Settings.load({"DATABASE_URL": "postgresql://db", "TRUSTED_PROXIES": PROXIES, "STRIPE_API_KEY": key}))
        for key in ("sk_test_one", "sk_test_other")
    )
    assert clients.address(scope) == client
    digest = clients.digest(scope)
    if client is None:
        assert digest is None
    else:
        assert digest is not None
        assert len(digest) == 16
        assert digest != others.digest(scope)


async def test_by_default_nothing_is_limited_or_stored(
    shop: Shop, resources: Resources, database: asyncpg.Connection
) -> None:
    answer = await shop.http.get("/products", headers=ONE)
    assert [name for name in answer.headers if name.startswith("ratelimit")] == []
    assert await resources.redis.keys("rate:*") == []
    await shop.checked_out_cart()
    assert await database.fetchval("SELECT client FROM orders") is None


class TestRequests:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"RATE_LIMIT_PER_MINUTE": "5", "TRUSTED_PROXIES": "127.0.0.1", "ADMIN_TOKEN": ADMIN_TOKEN}

    async def test_are_limited_for_each_client(self, shop: Shop, settings: Settings) -> None:
        async with served(create_app(settings)) as second, httpx.AsyncClient(base_url=second) as elsewhere:
            for left in (4, 3, 2, 1, 0):
                # Two processes have one count.
                answer = await (elsewhere if left % 2 else shop.http).get("/nope", headers=ONE)
                assert answer.status_code == 404
                assert answer.headers["ratelimit-limit"] == "5"
                assert answer.headers["ratelimit-remaining"] == str(left)
                assert 0 < int(answer.headers["ratelimit-reset"]) <= 60
            for client in (elsewhere, shop.http):
                refused = await client.post("/carts", headers=ONE)
                assert is_problem(refused, 429, "rate_limited")
                assert refused.headers["ratelimit-remaining"] == "0"
                assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
        # A cached page has the figures of its own request.
        for left in ("4", "3"):
            answer = await shop.http.get("/products", headers=OTHER)
            assert answer.headers.get_list("ratelimit-remaining") == [left]

    async def test_of_staff_stripe_and_probes_are_not_limited(self, shop: Shop) -> None:
        for _ in range(6):
            await shop.http.get("/products", headers=ONE)
        wrong = {**ONE, "Authorization": "Bearer other"}
        assert is_problem(await shop.http.get("/orders", headers=wrong), 429, "rate_limited")
        staff = {**ONE, "Authorization": f"bearer {ADMIN_TOKEN}"}
        assert (await shop.http.get("/orders", headers=staff)).status_code == 200
        for path in ("/health/live", "/health/ready"):
            assert (await shop.http.get(path, headers=ONE)).status_code == 200
        assert is_problem(await shop.http.post("/webhooks/stripe", headers=ONE), 400, "invalid_signature")
        assert await deliver(shop, make_event("charge.captured", {})) == "ignored"


def test_a_hop_that_is_not_believed_is_warned_of_once_an_hour(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a proxy that TRUSTED_PROXIES lacks. A public address may be a customer's, so it is not logged."""
    clients = Clients(Settings.load({"DATABASE_URL": "postgresql://db", "TRUSTED_PROXIES": "10.0.0.1"}))
    forwarded = [(b"x-forwarded-for", b"192.0.2.1")]

    def peers_logged(*peers: str) -> list[str]:
        caplog.clear()
        for peer in peers:
            clients.address({"type": "http", "client": (peer, 1), "headers": forwarded})
        return [vars(record)["peer"] for record in caplog.records]

    assert peers_logged("10.0.0.1") == []
    assert peers_logged("10.0.0.2", "10.0.0.3") == ["10.0.0.2"]
    now = time.monotonic()
    monkeypatch.setattr("service.infra.clients.time.monotonic", lambda: now + 3601)
    assert peers_logged("8.8.8.8", "10.0.0.3") == ["public"]


class TestRequestsWithoutProxies:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"RATE_LIMIT_PER_MINUTE": "1"}

    async def test_belong_to_the_peer_whatever_they_claim(self, shop: Shop) -> None:
        assert (await shop.http.get("/products", headers=ONE)).status_code == 200
        assert is_problem(await shop.http.get("/products", headers=OTHER), 429, "rate_limited")


@asynccontextmanager
async def redis_that_is(state: str, redis_url: str) -> AsyncIterator[str]:
    """The URL of a Redis that is well, gone, frozen or slow."""
    port = urlsplit(redis_url).port
    assert port
    if state == "slow":
        near = free_port()
        arguments = ("-m", "tests.bench.delay", str(near), str(port), "1")
        pipe = asyncio.subprocess.PIPE
        relay = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=pipe)
        try:
            assert relay.stdout
            assert b"ready" in await relay.stdout.readline()
            yield f"redis://127.0.0.1:{near}/0"
        finally:
            relay.kill()
            await relay.communicate()
    elif state == "frozen":
        with scratch_folder() as folder, valkey(folder / "valkey", durable=False) as url:
            process = int((folder / "valkey" / "pid").read_text())
            os.kill(process, signal.SIGSTOP)
            try:
                yield url
            finally:
                os.kill(process, signal.SIGCONT)
    else:
        yield redis_url if state == "well" else f"redis://127.0.0.1:{free_port()}/0"


@pytest.mark.parametrize("state", ["well", "gone", "frozen", "slow"])
async def test_exactly_the_limit_of_concurrent_requests_passes(settings: Settings, redis_url: str, state: str) -> None:
    async with redis_that_is(state, redis_url) as url, AsyncExitStack() as stack:
        changed = {"redis_url": url, "rate_limit_per_minute": 50, "trusted_proxies": ("127.0.0.1",)}
        app = create_app(settings.model_copy(update=changed))
        api = await stack.enter_async_context(served(app))
        client = await stack.enter_async_context(aiohttp.ClientSession(api, connector=aiohttp.TCPConnector(limit=0)))

        async def ask(headers: dict[str, str]) -> tuple[int, str]:
            async with client.get("/nope", headers=headers) as answer:
                assert answer.headers["RateLimit-Limit"] == "50"
                assert 0 < int(answer.headers["RateLimit-Reset"]) <= 60
                return answer.status, answer.headers["RateLimit-Remaining"]

        answers = await asyncio.gather(*(ask(ONE) for _ in range(1000)))
        assert Counter(status for status, _ in answers) == {404: 50, 429: 950}
        assert {int(left) for status, left in answers if status == 404} <= {*range(50)}
        # Other clients have their own limit.
        assert await ask(OTHER) == (404, "49")
        assert (await ask(ONE))[0] == 429
        if state == "well":
            # Requests that this process refused were not counted in Redis.
            with redis.Redis.from_url(url) as counts:
                assert all(int(counts.get(key) or 0) <= 50 for key in counts.keys("rate:*"))


async def test_a_limit_that_redis_lost_holds_in_the_process(
    settings: Settings, redis_url: str, database: asyncpg.Connection
) -> None:
    app = create_app(settings.model_copy(update={"rate_limit_per_minute": 3}))
    async with served(app) as url, Shop(url) as shop:
        for left in ("2", "1", "0"):
            assert (await shop.http.get("/nope")).headers["ratelimit-remaining"] == left
            with redis.Redis.from_url(redis_url) as client:
                client.flushdb()
        assert is_problem(await shop.http.get("/nope"), 429, "rate_limited")


async def test_clients_without_an_address_share_one_limit(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"rate_limit_per_minute": 2}))
    transport = httpx.ASGITransport(app, client=("unknown", 1))
    async with served(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert [(await client.get("/nope")).status_code for _ in range(4)] == [404, 404, 429, 429]


class TestLocalCounts:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now[0])
        return now

    def test_a_minute_begins_with_the_first_request(self, clock: list[float]) -> None:
        counts = rate_limit.LocalCounts()
        counted = []
        for at in (0, 30, 59.9, 60, 119, 120.5, 500):
            clock[0] = 1000 + at
            counted.append(counts.count(b"one"))
        assert counted == [(1, 60), (2, 30), (3, 1), (1, 60), (2, 1), (1, 60), (1, 60)]

    def test_clients_are_counted_apart(self, clock: list[float]) -> None:
        counts = rate_limit.LocalCounts()
        assert [counts.count(client)[0] for client in (b"one", b"two", b"one", b"two", b"two")] == [1, 1, 2, 2, 3]

    def test_the_oldest_minutes_are_dropped_first(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 3)
        counts = rate_limit.LocalCounts()
        for client in (b"1", b"2", b"3", b"1", b"1"):
            clock[0] += 1
            counts.count(client)
        # Client 1 has the most and the latest requests, but its minute began first.
        counts.count(b"4")
        assert [counts.count(client)[0] for client in (b"4", b"3", b"2")] == [2, 2, 2]
        assert counts.count(b"1")[0] == 1
        for number in range(1000):
            counts.count(b"%d" % number)
            assert len(counts._windows) == 3
        clock[0] += 61
        counts.count(b"1")
        assert len(counts._windows) == 1


async def test_calls_to_redis_wait_for_a_free_connection(resources: Resources) -> None:
    # A busy machine may need more than a second for so many connections at once.
    pool: Any = resources.redis.connection_pool
    pool.timeout = pool.connection_kwargs["socket_connect_timeout"] = 30
    # Each call keeps a connection for a while, and there are fewer connections than calls.
    assert set(await asyncio.gather(*(resources.redis.blpop(["nothing"], timeout=0.1) for _ in range(100)))) == {None}


class TestPendingOrders:
    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"MAX_PENDING_PER_CLIENT": "2", "TRUSTED_PROXIES": "127.0.0.1", "DB_POOL_SIZE": "6"}

    async def order(self, shop: Shop, product: int, client: dict[str, str]) -> Any:
        return await shop.http.post(f"/carts/{await shop.create_cart((product, 1))}/checkout", headers=client)

    async def test_of_one_client_are_limited(
        self, shop: Shop, stripe: StripeStandin, resources: Resources, database: asyncpg.Connection, worker: None
    ) -> None:
        tent = (await shop.create_product())["id"]
        pending = [(await self.order(shop, tent, ONE)).json() for _ in range(2)]
        cart = await shop.create_cart((tent, 1))

        async def refused() -> None:
            answer = await shop.http.post(f"/carts/{cart}/checkout", headers=ONE)
            assert is_problem(answer, 429, "rate_limited")
            assert int(answer.headers["retry-after"]) > 0
            assert (await shop.call("GET", f"/carts/{cart}", 200))["status"] == "OPEN"

        await refused()
        assert await shop.get_stock(tent) == 8
        # A repeated checkout returns its order; other clients have their own limit.
        again = (await shop.get_order(pending[0]["order_id"]))["cart_id"]
        assert (await shop.http.post(f"/carts/{again}/checkout", headers=ONE)).status_code == 200
        assert (await self.order(shop, tent, OTHER)).status_code == 201
        # An order that is cancelled, expired or paid makes room for another.
        await shop.call("POST", f"/orders/{pending[0]['order_id']}/cancel", 200)
        pending.append((await self.order(shop, tent, ONE)).json())
        await refused()
        await end_hold(database, pending[1]["order_id"])
        await shop.wait_for_order(pending[1]["order_id"], "CANCELLED")
        pending.append((await self.order(shop, tent, ONE)).json())
        await refused()
        stripe.pay(pending[2]["payment"]["stripe_session_id"])
        await shop.wait_for_order(pending[2]["order_id"], "FULFILLED")
        assert (await self.order(shop, tent, ONE)).status_code == 201
        await refused()
        stored = {row["client"] for row in await database.fetch("SELECT client FROM orders WHERE client IS NOT NULL")}
        assert {len(client) for client in stored} == {16}
        assert len(stored) == 2

    async def test_two_checkouts_of_one_client_wait_for_each_other(
        self, shop: Shop, database: asyncpg.Connection
    ) -> None:
        products = [(await shop.create_product())["id"] for _ in range(3)]
        assert (await self.order(shop, products[0], ONE)).status_code == 201
        async with database.transaction():
            await database.execute("SELECT FROM products WHERE id = $1 FOR NO KEY UPDATE", products[1])
            first = asyncio.create_task(self.order(shop, products[1], ONE))
            await wait_for_blocked(database)
            second = asyncio.create_task(self.order(shop, products[2], ONE))
            await wait_for_blocked(database, 2)
        assert (await first).status_code == 201
        assert is_problem(await second, 429, "rate_limited")

    async def test_many_checkouts_at_once_do_not_exceed_the_limit(
        self, shop: Shop, database: asyncpg.Connection
    ) -> None:
        products = [(await shop.create_product())["id"] for _ in range(20)]
        answers = await asyncio.gather(*(self.order(shop, product, ONE) for product in products))
        assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 18
        assert await database.fetchval("SELECT count(*) FROM orders") == 2

    async def test_of_a_network_are_limited_to_ten_times_as_many(
        self, shop: Shop, stripe: StripeStandin, database: asyncpg.Connection
    ) -> None:
        tent = (await shop.create_product(stock=1000))["id"]
        for number in range(20):
            answer = await self.order(shop, tent, {"X-Forwarded-For": f"2001:db8:1:{number // 2:x}::{number + 1:x}"})
            assert answer.status_code == 201

        one_more = await self.order(shop, tent, {"X-Forwarded-For": "2001:db8:1:ffff::1"})

        assert is_problem(one_more, 429, "rate_limited")
        assert (await self.order(shop, tent, {"X-Forwarded-For": "2001:db8:2::1"})).status_code == 201
        assert (await self.order(shop, tent, ONE)).status_code == 201
        stored = "SELECT count(*), count(DISTINCT client), count(DISTINCT client_network) FROM orders"
        assert tuple(await database.fetchrow(stored)) == (22, 12, 2)

    async def test_leave_half_of_the_units_to_others(self, shop: Shop, stripe: StripeStandin) -> None:
        """Four of ten tents are the client's. With one more it has half; half of ten mugs are five."""
        tent, mug = [(await shop.create_product())["id"] for _ in range(2)]

        async def order(units: int, product: int, client: dict[str, str]) -> Any:
            return await shop.http.post(f"/carts/{await shop.create_cart((product, units))}/checkout", headers=client)

        assert (await order(4, tent, ONE)).status_code == 201
        for product, allowed in ((tent, 1), (mug, 5)):
            refused = await order(allowed + 1, product, ONE)
            assert is_problem(refused, 409, "quantity_limited")
            assert (refused.json()["product_id"], refused.json()["allowed"]) == (product, allowed)
            second = await order(allowed, product, ONE)
            assert second.status_code == 201
            await shop.call("POST", f"/orders/{second.json()['order_id']}/cancel", 200)
        # The rule is each client's own, and not about its first order.
        assert (await order(6, tent, OTHER)).status_code == 201
        # With nothing in stock, this is not the client's fault.
        assert is_problem(await order(1, tent, ONE), 409, "insufficient_stock")
        await shop.call("POST", f"/products/{tent}/stock", 200, {"delta": 3, "reason": "delivery"})
        refused = await order(1, tent, ONE)
        assert is_problem(refused, 409, "quantity_limited")
        assert refused.json()["allowed"] == 0

    async def test_leave_half_of_the_units_that_are_left_after_a_wait(
        self, shop: Shop, database: asyncpg.Connection
    ) -> None:
        """One of ten tents is the client's, so it may have four more; while it waits, somebody buys five."""
        tent = (await shop.create_product())["id"]
        carts = [await shop.create_cart((tent, units)) for units in (1, 4)]

        async def check_out(cart: str) -> Any:
            return await shop.http.post(f"/carts/{cart}/checkout", headers=ONE)

        assert (await check_out(carts[0])).status_code == 201
        async with database.transaction():
            await database.execute("UPDATE products SET stock = stock - 5 WHERE id = $1", tent)
            waiting = asyncio.create_task(check_out(carts[1]))
            await wait_for_blocked(database)
        refused = await waiting

        assert is_problem(refused, 409, "quantity_limited")
        assert refused.json()["allowed"] == 1
        assert await database.fetchval("SELECT stock FROM products WHERE id = $1", tent) == 4


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # The storefront's own address, and behind a proxy of ours.
        ("203.0.113.5", ["192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["192.0.2.1, 203.0.113.5"], "192.0.2.1"),
        # Only the hop that the storefront wrote last.
        ("203.0.113.5", ["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["198.51.100.9, 192.0.2.1, 203.0.113.5"], "192.0.2.1"),
        # It names nobody, or the proxy is the storefront.
        ("203.0.113.5", [], None),
        ("10.1.2.3", [], None),
        ("10.1.2.3", ["192.0.2.1"], "192.0.2.1"),
        ("203.0.113.5", ["somebody"], None),
    ],
)
def test_a_storefronts_key_is_believed_for_one_hop(peer: str, forwarded: list[str], client: str | None) -> None:
    clients = Clients(Settings.load({"DATABASE_URL": "postgresql://db", "TRUSTED_PROXIES": PROXIES}))
    headers = [(b"x-forwarded-for", hops.encode()) for hops in forwarded]
    assert clients.address({"type": "http", "client": (peer, 1), "headers": headers}, forwarded=True) == client


class TestPrincipals:
    """Requests, pending orders and idempotency keys count per user or key; a storefront's key names its customer."""

    @pytest.fixture
    def changed_settings(self, provider: Provider) -> dict[str, str]:
        return {
            "AUTH_ISSUER": provider.url,
            "AUTH_AUDIENCE": AUDIENCE,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "RATE_LIMIT_PER_MINUTE": "50",
            "MAX_PENDING_PER_CLIENT": "2",
            "TRUSTED_PROXIES": "none",
        }

    @pytest.fixture
    async def keys(self, settings: Settings, database_url: str) -> dict[str, dict[str, str]]:
        """Headers of a key of each scope, by the scope."""
        pool = Pool(settings.model_copy(update={"database_url": login(database_url, "owner")}), "tests")
        keys = {
            scope: bearer(await access.add_key(pool, name=name, scopes=[scope], days=1, created_by="tests"))
            for name, scope in (("shop", "storefront"), ("erp", "stock:write"))
        }
        await pool.aclose()
        return keys

    async def left(self, shop: Shop, headers: dict[str, str]) -> int | None:
        left = (await shop.http.get("/categories", headers=headers)).headers.get("ratelimit-remaining")
        return None if left is None else int(left)

    async def test_each_has_its_own_requests(
        self, shop: Shop, provider: Provider, keys: dict[str, dict[str, str]]
    ) -> None:
        anna, again, berta = (bearer(provider.token(sub)) for sub in ("anna", "anna", "berta"))
        store, erp = keys["storefront"], keys["stock:write"]
        assert [await self.left(shop, sender) for sender in (anna, again, berta, erp, {}, erp)] == [
            49,
            48,
            49,
            49,
            49,
            48,
        ]
        # A storefront's customers, then its own requests. Nobody else names an address.
        senders = [{**store, **ONE}, {**store, **OTHER}, {**store, **ONE}, store, store, {**erp, **ONE}, ONE]
        assert [await self.left(shop, sender) for sender in senders] == [49, 49, 48, 49, 48, 47, 48]
        assert await self.left(shop, bearer(ADMIN_TOKEN)) is None

    async def test_failures_count_against_the_address(self, shop: Shop, provider: Provider) -> None:
        known, forged = bearer(provider.token("berta")), bearer(provider.token("anna", kid="two"))
        assert await self.left(shop, known) == 49
        answers = [await shop.http.get("/categories", headers=forged) for _ in range(60)]
        assert Counter(answer.status_code for answer in answers) == {401: 50, 429: 10}
        # A valid token is not looked at any more, because verifying it would cost the same.
        assert is_problem(
            await shop.http.get("/categories", headers=bearer(provider.token("anna"))), 429, "rate_limited"
        )

        # What is remembered costs nothing.
        assert await self.left(shop, known) == 48
        assert await self.left(shop, bearer(ADMIN_TOKEN)) is None

    async def test_each_has_its_own_pending_orders(
        self, shop: Shop, provider: Provider, keys: dict[str, dict[str, str]]
    ) -> None:
        tent = (await shop.call("POST", "/products", 201, TENT, **bearer(ADMIN_TOKEN)))["id"]

        async def order(headers: dict[str, str]) -> int:
            cart = (await shop.call("POST", "/carts", 201, **headers))["id"]
            await shop.call("POST", f"/carts/{cart}/items", 200, {"product_id": tent, "quantity": 1}, **headers)
            return (await shop.http.post(f"/carts/{cart}/checkout", headers=headers)).status_code

        store = keys["storefront"]
        for sender in (bearer(provider.token("anna")), {**store, **ONE}, {**store, **OTHER}, store, {}):
            assert [await order(sender) for _ in range(3)] == [201, 201, 429], sender

    async def test_each_has_its_own_idempotency_keys(
        self, shop: Shop, provider: Provider, keys: dict[str, dict[str, str]]
    ) -> None:
        store = keys["storefront"]
        senders = [
            bearer(provider.token("anna")),
            bearer(provider.token("berta")),
            {**store, **ONE},
            {**store, **OTHER},
        ]
        senders += [store, keys["stock:write"], {}]
        carts = [
            [(await shop.call("POST", "/carts", 201, Idempotency_Key="k", **sender))["id"] for _ in range(2)]
            for sender in senders
        ]
        assert all(first == second for first, second in carts)
        assert len({first for first, _ in carts}) == len(senders)

    async def test_staff_have_their_own_idempotency_keys(self, shop: Shop, provider: Provider) -> None:
        body = {"name": "Camping"}
        senders = [bearer(ADMIN_TOKEN), *(bearer(provider.token(sub, "catalogue")) for sub in ("anna", "berta"))]
        for sender, status in zip(senders, (201, 409, 409), strict=True):
            await shop.call("POST", "/categories", status, body, Idempotency_Key="k", **sender)
        again = await shop.http.post("/categories", json=body, headers={**senders[0], "Idempotency-Key": "k"})
        assert again.headers["idempotent-replayed"] == "true"
