"""The cached first page: shared, ended by every change, never stale, and not needed for an answer."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from redis.asyncio import Redis

from service.app import create_app
from service.dev.servers import free_port, scratch_folder, valkey
from service.infra import circuit_breaker, page_cache
from service.infra.circuit_breaker import CircuitBreaker, Operation
from service.infra.page_cache import PageCache
from service.settings import Settings
from service.shop import catalog
from tests.client import Shop
from tests.conftest import served

T = TypeVar("T")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Shop]:
    """A second process of the service, as far as the cache can tell."""
    async with served(create_app(settings)) as url, Shop(url) as client:
        yield client


async def listing(shop: Shop) -> list[tuple[int, str, bool]]:
    page = await shop.call("GET", "/products", 200)
    return [(item["id"], item["name"], item["available"]) for item in page["items"]]


async def test_the_default_page_is_cached_for_all_processes(
    shop: Shop, other: Shop, redis: Redis, database: asyncpg.Connection
) -> None:
    await shop.create_product()
    first = await shop.http.get("/products")
    await database.execute("UPDATE products SET name = 'changed behind its back'")
    for process in (shop, other):
        for path in ("/products", "/products?limit=20", "/products?after_id=0"):
            assert (await process.http.get(path)).content == first.content
        for path in ("/products?limit=19", "/products?after_id=0&limit=21"):
            assert "changed" in (await process.http.get(path)).text
    (key,) = await redis.keys("catalogue:first_page:*")
    assert await redis.get(key) == first.content
    assert 0 < await redis.ttl(key) <= 60


async def test_processes_whose_items_have_other_members_share_no_page(
    shop: Shop, other: Shop, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old and new code serve side by side during a deployment."""
    await shop.create_product()
    (item,) = (await shop.call("GET", "/products", 200))["items"]
    assert ",".join(item) == catalog.LISTED_MEMBERS
    await database.execute("UPDATE products SET name = 'changed behind its back'")

    monkeypatch.setattr(catalog, "LISTED_MEMBERS", "id,name")

    assert "changed" in (await other.http.get("/products")).text


async def test_a_page_expires_everywhere_at_its_time(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "TTL_SECONDS", 1)
    rendered = 0

    async def render() -> bytes:
        nonlocal rendered
        rendered += 1
        return b"%d" % rendered

    one, two = (
        PageCache(redis, CircuitBreaker(redis.connection_pool)),
        PageCache(redis, CircuitBreaker(redis.connection_pool)),
    )
    started = time.monotonic()
    assert await one.page(render) == b"1"
    ages: dict[str, float] = {}
    fresh: set[str] = set()
    while len(fresh) < 2:
        age = time.monotonic() - started
        assert age < 10
        # The second process reads the page when it is old already, and must not give it a new life.
        for name, pages in (("one", one), ("two", two)) if age > 0.5 else (("one", one),):
            if await pages.page(render) == b"1":
                ages[name] = age
            else:
                fresh.add(name)
        await asyncio.sleep(0)
    assert ages.keys() == {"one", "two"}
    assert 0.5 < max(ages.values()) < 1.1


async def test_every_change_shows_at_once_everywhere(shop: Shop, other: Shop) -> None:
    """Both processes have the page before each change, and both are asked after it."""
    tent, mug = (await shop.create_product(stock=2))["id"], (await shop.create_product(name="Mug", stock=0))["id"]
    path, stock = f"/products/{tent}", f"/products/{tent}/stock"
    cart = await shop.create_cart((tent, 3))
    order = ""
    rows = {tent: ("Tent", True), mug: ("Mug", False)}

    async def is_shown() -> None:
        for process in (other, shop, other):
            assert await listing(process) == [(product, *row) for product, row in sorted(rows.items())]

    await is_shown()
    changes: list[tuple[str, str, int, Any, Any]] = [
        ("PATCH", path, 200, {"name": "Big tent"}, ("Big tent", True)),
        ("POST", stock, 200, {"delta": -2, "reason": "x"}, ("Big tent", False)),
        ("POST", stock, 200, {"delta": 3, "reason": "x"}, ("Big tent", True)),
        ("POST", f"/carts/{cart}/checkout", 201, None, ("Big tent", False)),
        ("POST", "/orders/{order}/cancel", 200, None, ("Big tent", True)),
        ("DELETE", path, 204, None, None),
        ("PATCH", path, 200, {"active": True}, ("Big tent", True)),
    ]
    for method, where, status, body, row in changes:
        answer = await shop.call(method, where.format(order=order), status, body)
        order = (answer or {}).get("order_id", order)
        rows = {mug: rows[mug]} | ({tent: row} if row else {})
        await is_shown()
    rows[(await shop.create_product(name="Cup"))["id"]] = ("Cup", True)
    await is_shown()


async def test_a_change_that_the_page_does_not_show_keeps_it(shop: Shop, redis: Redis) -> None:
    tent = await shop.create_product()
    await listing(shop)
    before = await redis.get("catalogue:generation")
    await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": -9, "reason": "x"})
    await shop.call("PATCH", "/products/404", 404, {"name": "x"})
    await shop.call("GET", "/products/404", 404)
    assert await redis.get("catalogue:generation") == before


async def test_no_reader_stores_or_gets_a_page_older_than_a_finished_change(redis: Redis) -> None:
    """Readers and writers of two processes interleaved at every await, with a table that is one number."""
    chance = random.Random(4)
    processes = [PageCache(redis, CircuitBreaker(redis.connection_pool)) for _ in range(2)]
    table = announced = 0

    async def pause() -> None:
        # Round trips like the cache's own, so that the steps interleave in every way.
        for _ in range(chance.randrange(8)):
            await redis.ping()

    async def render() -> bytes:
        await pause()
        snapshot = table
        await pause()
        return b"%d" % snapshot

    async def read(pages: PageCache) -> None:
        await pause()
        least = announced
        assert int(await pages.page(render)) >= least

    async def write(pages: PageCache) -> None:
        nonlocal table, announced
        await pause()
        table += 1
        committed = table
        await pages.invalidate()
        announced = max(announced, committed)

    for _ in range(300):
        readers = [read(chance.choice(processes)) for _ in range(4)]
        writers = [write(chance.choice(processes)) for _ in range(chance.randrange(1, 3))]
        await asyncio.gather(*readers, *writers)
        for pages in processes:
            assert int(await pages.page(render)) == table


async def test_a_slow_reader_neither_stores_nor_shares_its_old_page(redis: Redis) -> None:
    one, two = (
        PageCache(redis, CircuitBreaker(redis.connection_pool)),
        PageCache(redis, CircuitBreaker(redis.connection_pool)),
    )
    begun, released = asyncio.Event(), asyncio.Event()

    async def slow() -> bytes:
        begun.set()
        await released.wait()
        return b"old"

    async def quick() -> bytes:
        return b"new"

    reading = asyncio.create_task(one.page(slow))
    await begun.wait()
    await two.invalidate()
    # Readers that arrive while it still reads do not get its old page.
    async with asyncio.timeout(10):
        assert [await pages.page(quick) for pages in (one, two)] == [b"new", b"new"]
    released.set()
    assert await reading == b"old"
    assert [await pages.page(slow) for pages in (one, two)] == [b"new", b"new"]


async def test_one_refill_at_a_time(redis: Redis) -> None:
    pages = PageCache(redis, CircuitBreaker(redis.connection_pool))
    rendered, begun, released = 0, asyncio.Event(), asyncio.Event()

    async def render() -> bytes:
        nonlocal rendered
        rendered += 1
        begun.set()
        await released.wait()
        if rendered == 1:
            raise ValueError("a bad moment")
        return b"page"

    async def ask(count: int) -> list[Any]:
        begun.clear()
        released.clear()
        asking = [asyncio.create_task(pages.page(render)) for _ in range(count)]
        await begun.wait()
        for reader in asking[:3]:
            reader.cancel()
        await redis.ping()
        released.set()
        return await asyncio.gather(*asking[3:], return_exceptions=True)

    failed = await ask(20)
    assert rendered == 1
    assert {type(answer) for answer in failed} == {ValueError}
    # A failed refill is not kept.
    assert await ask(20) == 17 * [b"page"]
    assert await pages.page(render) == b"page"
    assert rendered == 2


async def test_a_wiped_redis_brings_nothing_back(shop: Shop, redis: Redis) -> None:
    tent = await shop.create_product()
    assert await listing(shop) == [(tent["id"], "Tent", True)]
    backup = {key: await redis.get(key) for key in await redis.keys("catalogue:*")}
    await redis.flushall()
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": "Big tent"})
    await redis.flushall()
    assert await listing(shop) == [(tent["id"], "Big tent", True)]
    # After a change, even a Redis that is restored with the old page does not bring it back.
    await redis.mset(backup)
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": "Tent"})
    assert await listing(shop) == [(tent["id"], "Tent", True)]


class Calls:
    """The calls to Redis, urgent ones for changes and others, and the errors of those that failed."""

    def __init__(self) -> None:
        self.urgent = self.others = 0
        self.errors: list[str] = []
        self.breakers: set[CircuitBreaker] = set()

    def close_breakers(self) -> None:
        """Allow calls again after failed ones."""
        for breaker in self.breakers:
            breaker._rest_until = 0.0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Counts the calls. After a failed call the circuit breaker stays open for longer than any test takes."""
    counts, call = Calls(), CircuitBreaker.call

    async def counting(
        self: CircuitBreaker, request: Callable[[], Awaitable[T]], *, operation: Operation, urgent: bool = False
    ) -> T | None:
        counts.breakers.add(self)

        async def counted() -> T:
            counts.urgent += urgent
            counts.others += not urgent
            try:
                return await request()
            except BaseException as error:
                # A request that takes too long is cancelled.
                counts.errors.append(repr(error))
                raise

        return await call(self, counted, operation=operation, urgent=urgent)

    monkeypatch.setattr(CircuitBreaker, "call", counting)
    monkeypatch.setattr(circuit_breaker, "REST_SECONDS", 3600)
    return counts


class TestRedisGone:
    @pytest.fixture
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{free_port()}/0"

    async def test_the_page_comes_from_postgresql(self, shop: Shop, calls: Calls) -> None:
        for n in range(20):
            tent = await shop.create_product(name=f"Tent {n}")
            assert (await listing(shop))[-1] == (tent["id"], f"Tent {n}", True)
        await shop.call("DELETE", f"/products/{tent['id']}", 204)
        assert len(await listing(shop)) == 19
        # Each call was refused at once, and only changes made calls.
        assert {error.partition("(")[0] for error in calls.errors} == {"ConnectionError"}
        assert calls.urgent >= 21
        assert calls.others == 0


class TestRedisTroubled:
    """A Redis of the test's own, which is frozen, full or restarted."""

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder / "valkey"

    @pytest.fixture
    def redis_url(self, folder: Path) -> Iterator[str]:
        with valkey(folder, durable=False) as url:
            yield url
            # A frozen process does not react to the signal that ends it.
            os.kill(int((folder / "pid").read_text()), signal.SIGCONT)

    async def test_a_frozen_redis_delays_one_call_only(
        self, shop: Shop, other: Shop, folder: Path, redis: Redis, calls: Calls
    ) -> None:
        server = int((folder / "pid").read_text())
        tent = (await shop.create_product())["id"]
        for process in (shop, other):
            assert await listing(process) == [(tent, "Tent", True)]
        before = await redis.get("catalogue:generation")

        os.kill(server, signal.SIGSTOP)
        calls.urgent = calls.others = 0
        for n in range(3):
            await shop.call("PATCH", f"/products/{tent}", 200, {"name": f"Tent {n}"})
            for process in (shop, other):
                assert await listing(process) == [(tent, f"Tent {n}", True)]
        answers = await asyncio.gather(*[listing(shop) for _ in range(100)])
        assert answers == 100 * [[(tent, "Tent 2", True)]]
        # Each change makes a call. Listings make one only, because the circuit breaker is open after that.
        assert calls.urgent >= 3
        assert calls.others == 1
        # Our time limit ended each call, before that of the Redis client.
        assert {error.partition("(")[0] for error in calls.errors} == {"CancelledError"}

        os.kill(server, signal.SIGCONT)
        calls.close_breakers()
        started = time.monotonic()
        while await redis.get("catalogue:generation") in (None, before):
            assert time.monotonic() - started < 20
            assert await listing(shop) == [(tent, "Tent 2", True)]

    async def test_connections_that_redis_closed_are_replaced(
        self, shop: Shop, redis: Redis, calls: Calls, database: asyncpg.Connection
    ) -> None:
        tent = (await shop.create_product())["id"]
        assert await listing(shop) == [(tent, "Tent", True)]
        await database.execute("UPDATE products SET name = 'changed behind its back'")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        # The answer still comes from the cache.
        assert await listing(shop) == [(tent, "Tent", True)]
        assert calls.errors == []

    async def test_a_full_redis_still_ends_a_generation(self, shop: Shop, other: Shop, redis: Redis) -> None:
        tent = (await shop.create_product())["id"]
        for process in (shop, other):
            assert await listing(process) == [(tent, "Tent", True)]
        await redis.config_set("maxmemory", 1)
        await shop.call("PATCH", f"/products/{tent}", 200, {"name": "Big tent"})
        for process in (shop, other):
            assert await listing(process) == [(tent, "Big tent", True)]

    async def test_a_change_that_redis_missed_shows_in_the_process_that_made_it(self, shop: Shop, redis: Redis) -> None:
        tent = (await shop.create_product())["id"]
        assert await listing(shop) == [(tent, "Tent", True)]
        before = await redis.get("catalogue:generation")
        await redis.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        await shop.call("PATCH", f"/products/{tent}", 200, {"name": "Big tent"})
        for _ in range(20):
            assert await listing(shop) == [(tent, "Big tent", True)]
        assert await redis.get("catalogue:generation") == before
        await redis.execute_command("CLIENT UNPAUSE")
        started = time.monotonic()
        while await redis.get("catalogue:generation") in (None, before):
            assert time.monotonic() - started < 20
            assert await listing(shop) == [(tent, "Big tent", True)]


class DelayedRedis:
    """A Redis whose answers arrive when `go` is set."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.answered, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def get(self, key: bytes) -> bytes | None:
        answer = await self._redis.get(key)
        self.answered.set()
        await self.go.wait()
        return answer


async def test_one_query_serves_all_readers_before_it_and_none_after(redis: Redis) -> None:
    delayed, page = DelayedRedis(redis), b"old"
    pages = PageCache(delayed, CircuitBreaker(redis.connection_pool))  # type: ignore[arg-type]

    async def render() -> bytes:
        return page

    assert await pages.page(render) == b"old"
    before = (await redis.info("commandstats"))["cmdstat_get"]["calls"]
    assert await asyncio.gather(*(pages.page(render) for _ in range(20))) == 20 * [b"old"]
    assert (await redis.info("commandstats"))["cmdstat_get"]["calls"] == before + 1
    delayed.answered.clear()
    delayed.go.clear()
    early = asyncio.create_task(pages.page(render))
    await delayed.answered.wait()
    page = b"new"
    await pages.invalidate()
    # The query under way was answered before the change.
    later = asyncio.create_task(pages.page(render))
    await asyncio.sleep(0)
    delayed.go.set()
    assert await early in (b"old", b"new")
    assert await later == b"new"
