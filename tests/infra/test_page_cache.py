"""The cached first page: kept, renewed by every change, never stale, and not needed."""

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
from service.infra.circuit_breaker import CircuitBreaker
from service.infra.page_cache import PageCache
from service.settings import Settings
from tests.client import Shop
from tests.conftest import served

T = TypeVar("T")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Shop]:
    """Another process of the service, as far as the cache can tell."""
    async with served(create_app(settings)) as url, Shop(url) as client:
        yield client


async def listing(shop: Shop) -> list[tuple[int, str, bool]]:
    page = await shop.call("GET", "/products", 200)
    return [(item["id"], item["name"], item["available"]) for item in page["items"]]


async def test_the_default_page_is_kept_and_shared(
    shop: Shop, other: Shop, redis: Redis, database: asyncpg.Connection
) -> None:
    await shop.create_product()
    first = await shop.http.get("/products")
    await database.execute("UPDATE products SET name = 'changed behind its back'")
    for who in (shop, other):
        for path in ("/products", "/products?limit=20", "/products?after_id=0"):
            assert (await who.http.get(path)).content == first.content
        for path in ("/products?limit=19", "/products?after_id=0&limit=21"):
            assert "changed" in (await who.http.get(path)).text
    (key,) = await redis.keys("catalogue:first_page:*")
    assert await redis.get(key) == first.content
    assert 0 < await redis.ttl(key) <= 60


async def test_a_page_lives_no_longer_than_its_time(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
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
        # The other process comes upon the page late: to it, too, that is old already.
        for name, pages in (("one", one), ("two", two)) if age > 0.5 else (("one", one),):
            if await pages.page(render) == b"1":
                ages[name] = age
            else:
                fresh.add(name)
        await asyncio.sleep(0)
    assert ages.keys() == {"one", "two"}
    assert 0.5 < max(ages.values()) < 1.1


async def test_every_change_shows_at_once_everywhere(shop: Shop, other: Shop) -> None:
    """The page is kept by both processes before each change, and asked of both after it."""
    tent, mug = (await shop.create_product(stock=2))["id"], (await shop.create_product(name="Mug", stock=0))["id"]
    path, stock = f"/products/{tent}", f"/products/{tent}/stock"
    cart = await shop.create_cart((tent, 3))
    order = ""
    rows = {tent: ("Tent", True), mug: ("Mug", False)}

    async def is_shown() -> None:
        for who in (other, shop, other):
            assert await listing(who) == [(product, *row) for product, row in sorted(rows.items())]

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


async def test_what_a_page_does_not_show_leaves_it(shop: Shop, redis: Redis) -> None:
    tent = await shop.create_product()
    await listing(shop)
    before = await redis.get("catalogue:generation")
    await shop.call("POST", f"/products/{tent['id']}/stock", 200, {"delta": -9, "reason": "x"})
    await shop.call("PATCH", "/products/404", 404, {"name": "x"})
    await shop.call("GET", "/products/404", 404)
    assert await redis.get("catalogue:generation") == before


async def test_no_reader_leaves_or_gets_a_page_older_than_a_finished_change(redis: Redis) -> None:
    """Readers and writers of two processes interleaved at every await, with a table that is one number."""
    chance = random.Random(4)
    processes = [PageCache(redis, CircuitBreaker(redis.connection_pool)) for _ in range(2)]
    table = announced = 0

    async def pause() -> None:
        # Round trips like the cache's own, so that each step falls before, within and after each other.
        for _ in range(chance.randrange(8)):
            await redis.ping()

    async def render() -> bytes:
        await pause()
        seen = table
        await pause()
        return b"%d" % seen

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


async def test_a_slow_reader_neither_leaves_nor_lends_its_old_page(redis: Redis) -> None:
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
    # Not even who comes while it still reads gets what it has read.
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
        for impatient in asking[:3]:
            impatient.cancel()
        await redis.ping()
        released.set()
        return await asyncio.gather(*asking[3:], return_exceptions=True)

    failed = await ask(20)
    assert rendered == 1
    assert {type(answer) for answer in failed} == {ValueError}
    # Whoever shared in it, it is not kept.
    assert await ask(20) == 17 * [b"page"]
    assert await pages.page(render) == b"page"
    assert rendered == 2


async def test_a_wiped_redis_brings_nothing_back(shop: Shop, redis: Redis) -> None:
    tent = await shop.create_product()
    assert await listing(shop) == [(tent["id"], "Tent", True)]
    kept = {key: await redis.get(key) for key in await redis.keys("catalogue:*")}
    await redis.flushall()
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": "Big tent"})
    await redis.flushall()
    assert await listing(shop) == [(tent["id"], "Big tent", True)]
    # Not even one that comes back with an old page, once something has changed.
    await redis.mset(kept)
    await shop.call("PATCH", f"/products/{tent['id']}", 200, {"name": "Tent"})
    assert await listing(shop) == [(tent["id"], "Tent", True)]


class Tried:
    """How often Redis was asked, for changes and else, and what became of it where it did not answer."""

    def __init__(self) -> None:
        self.urgent = self.others = 0
        self.errors: list[str] = []
        self.askers: set[CircuitBreaker] = set()

    def rested(self) -> None:
        """Let all ask again who have asked in vain."""
        for asker in self.askers:
            asker._rest_until = 0.0


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Counts from now on; who gets no answer rests for longer than any test takes."""
    found, ask = Tried(), CircuitBreaker.call

    async def counting(self: CircuitBreaker, question: Callable[[], Awaitable[T]], *, urgent: bool = False) -> T | None:
        found.askers.add(self)

        async def counted() -> T:
            found.urgent += urgent
            found.others += not urgent
            try:
                return await question()
            except BaseException as error:
                # A question that was waited for too long is cancelled.
                found.errors.append(repr(error))
                raise

        return await ask(self, counted, urgent=urgent)

    monkeypatch.setattr(CircuitBreaker, "call", counting)
    monkeypatch.setattr(circuit_breaker, "REST_SECONDS", 3600)
    return found


class TestRedisGone:
    @pytest.fixture
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{free_port()}/0"

    async def test_the_page_comes_from_postgresql(self, shop: Shop, tried: Tried) -> None:
        for n in range(20):
            tent = await shop.create_product(name=f"Tent {n}")
            assert (await listing(shop))[-1] == (tent["id"], f"Tent {n}", True)
        await shop.call("DELETE", f"/products/{tent['id']}", 204)
        assert len(await listing(shop)) == 19
        # It was refused each time, and so waited for nowhere; and tried for the changes only.
        assert {error.partition("(")[0] for error in tried.errors} == {"ConnectionError"}
        assert tried.urgent >= 21
        assert tried.others == 0


class TestRedisTroubled:
    """A Redis of the test's own, in whose way something is put."""

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder / "valkey"

    @pytest.fixture
    def redis_url(self, folder: Path) -> Iterator[str]:
        with valkey(folder, durable=False) as url:
            yield url
            # A stopped process does not hear that it should end.
            os.kill(int((folder / "pid").read_text()), signal.SIGCONT)

    async def test_frozen_it_is_hardly_waited_for(
        self, shop: Shop, other: Shop, folder: Path, redis: Redis, tried: Tried
    ) -> None:
        server = int((folder / "pid").read_text())
        tent = (await shop.create_product())["id"]
        for who in (shop, other):
            assert await listing(who) == [(tent, "Tent", True)]
        before = await redis.get("catalogue:generation")

        os.kill(server, signal.SIGSTOP)
        tried.urgent = tried.others = 0
        for n in range(3):
            await shop.call("PATCH", f"/products/{tent}", 200, {"name": f"Tent {n}"})
            for who in (shop, other):
                assert await listing(who) == [(tent, f"Tent {n}", True)]
        answers = await asyncio.gather(*[listing(shop) for _ in range(100)])
        assert answers == 100 * [[(tent, "Tent 2", True)]]
        # Each change tries it, and listings now and then: once where nothing had changed, as its last silence is fresh.
        assert tried.urgent >= 3
        assert tried.others == 1
        # Our patience ended every wait, and not the client's, which has more.
        assert {error.partition("(")[0] for error in tried.errors} == {"CancelledError"}

        os.kill(server, signal.SIGCONT)
        tried.rested()
        started = time.monotonic()
        while await redis.get("catalogue:generation") in (None, before):
            assert time.monotonic() - started < 20
            assert await listing(shop) == [(tent, "Tent 2", True)]

    async def test_that_it_closed_what_nobody_used_is_not_noticed(
        self, shop: Shop, redis: Redis, tried: Tried, database: asyncpg.Connection
    ) -> None:
        tent = (await shop.create_product())["id"]
        assert await listing(shop) == [(tent, "Tent", True)]
        await database.execute("UPDATE products SET name = 'changed behind its back'")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        # Still by the cache.
        assert await listing(shop) == [(tent, "Tent", True)]
        assert tried.errors == []

    async def test_full_it_still_forgets(self, shop: Shop, other: Shop, redis: Redis) -> None:
        tent = (await shop.create_product())["id"]
        for who in (shop, other):
            assert await listing(who) == [(tent, "Tent", True)]
        await redis.config_set("maxmemory", 1)
        await shop.call("PATCH", f"/products/{tent}", 200, {"name": "Big tent"})
        for who in (shop, other):
            assert await listing(who) == [(tent, "Big tent", True)]

    async def test_a_change_it_did_not_hear_of_shows_where_it_was_made(self, shop: Shop, redis: Redis) -> None:
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


class Held:
    """A Redis whose answers are on their way for a while."""

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


async def test_one_question_serves_all_who_came_before_it_and_nobody_after(redis: Redis) -> None:
    held, page = Held(redis), b"old"
    pages = PageCache(held, CircuitBreaker(redis.connection_pool))  # type: ignore[arg-type]

    async def render() -> bytes:
        return page

    assert await pages.page(render) == b"old"
    before = (await redis.info("commandstats"))["cmdstat_get"]["calls"]
    assert await asyncio.gather(*(pages.page(render) for _ in range(20))) == 20 * [b"old"]
    assert (await redis.info("commandstats"))["cmdstat_get"]["calls"] == before + 1
    held.answered.clear()
    held.go.clear()
    early = asyncio.create_task(pages.page(render))
    await held.answered.wait()
    page = b"new"
    await pages.invalidate()
    # The question that is under way was answered before the change.
    late = asyncio.create_task(pages.page(render))
    await asyncio.sleep(0)
    held.go.set()
    assert await early in (b"old", b"new")
    assert await late == b"new"
