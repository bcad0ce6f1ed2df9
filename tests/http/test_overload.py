"""Overload: admitted requests are served, others are refused at once, and no queue blocks unrelated requests."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partialmethod
from typing import Any, Self
from uuid import UUID

import aiohttp
import asyncpg
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.errors import ShopError
from service.http.server import bodies, limits, protocol
from service.http.server.bodies import MAX_BODIES, MAX_BODIES_PER_CLIENT, Arrival, Arrivals
from service.http.server.limits import ConcurrencyLimitMiddleware
from service.infra.clients import Clients
from service.settings import Settings
from tests.client import ADMIN_TOKEN, Shop, eventually, is_problem
from tests.conftest import WEBHOOK_SECRET, served
from tests.database import insert_carts, wait_for_blocked

Outcomes = Counter[tuple[int, str | None]]


class PausedStripe(StripeStandin):
    """A Stripe that accepts calls, and answers them when `go` is set."""

    def __init__(self) -> None:
        super().__init__(webhook_secret=WEBHOOK_SECRET)
        self.calls = 0
        self.go = asyncio.Event()
        answer = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"].startswith("/v1/"):
                self.calls += 1
                await self.go.wait()
            await answer(scope, receive, send)

        self.app = app


@pytest.fixture
async def stripe() -> AsyncIterator[PausedStripe]:
    standin = PausedStripe()
    async with served(standin.app) as url:
        standin.api_base = url  # type: ignore[attr-defined]
        yield standin


@pytest.fixture
async def crowd(shop: Shop) -> AsyncIterator[Callable[[list[str]], list[asyncio.Task[tuple[int, str | None]]]]]:
    """Starts checkouts of these carts at once, each on its own connection. Each has a status and a problem's code."""
    async with aiohttp.ClientSession(shop.url, connector=aiohttp.TCPConnector(limit=0)) as client:

        async def check_out(cart: str) -> tuple[int, str | None]:
            async with client.post(f"/carts/{cart}/checkout") as answer:
                return answer.status, (await answer.json(content_type=None)).get("code")

        yield lambda cart_ids: [asyncio.create_task(check_out(cart)) for cart in cart_ids]


async def count_blocked(database: asyncpg.Connection) -> int:
    """The number of connections that wait for a lock."""
    return int(await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


class TestTheConcurrencyLimit:
    """Admits as many requests as MAX_IN_FLIGHT says."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"MAX_IN_FLIGHT": "8", "CORS_ORIGINS": "https://shop.example"}

    async def test_refuses_requests_beyond_the_limit_and_none_afterwards(
        self, shop: Shop, database: asyncpg.Connection
    ) -> None:
        tent, cart = await shop.create_product(), await shop.create_cart()
        edit = f"/carts/{cart}/items/{tent['id']}"
        inside: list[asyncio.Task[httpx.Response]] = []

        async def full() -> Any:
            # Several, because the request below may take the last place from a single one, each time.
            inside.extend(asyncio.create_task(shop.http.put(edit, json={"quantity": 1})) for _ in range(8))
            answer = await shop.http.get("/products", headers={"Origin": "https://shop.example"})
            return answer if answer.status_code != 200 else None

        async with database.transaction():
            await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
            refused = await eventually(full)
            assert is_problem(refused, 503, "busy")
            assert int(refused.headers["retry-after"]) > 0
            # A web shop's JavaScript may read that too.
            assert refused.headers["access-control-allow-origin"] == "https://shop.example"
            for path in ("/carts", "/nope", "/docs", "/webhooks/stripe"):
                assert is_problem(await shop.http.post(path), 503, "busy"), path
            # A body that completes later is refused too.
            answer = await shop.http.post("/categories", json={"name": "One"})
            assert is_problem(answer, 503, "busy")
            for path in ("/health/live", "/health/ready"):
                assert (await shop.http.get(path)).status_code == 200, path
        assert {answer.status_code for answer in await asyncio.gather(*inside)} <= {200, 503}
        assert await eventually(lambda: _open(shop))
        assert len(await asyncio.gather(*(shop.create_cart() for _ in range(8)))) == 8


async def _open(shop: Shop) -> bool:
    return (await shop.http.get("/products?limit=1")).status_code == 200


SILENT = b"POST /carts HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


class Silent:
    """Connections that announce a body and send none, from local addresses."""

    def __init__(self, shop_url: str) -> None:
        self._port = int(shop_url.rpartition(":")[2])
        self._writers: list[asyncio.StreamWriter] = []
        self.answers: list[asyncio.Task[bytes]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self.answers, return_exceptions=True)

    async def open(self, count: int, address: str = "127.0.0.1") -> list[asyncio.StreamWriter]:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
            writer.write(SILENT)
            self._writers.append(writer)
            self.answers.append(asyncio.create_task(reader.read()))
        return self._writers[-count:]

    def codes(self) -> Counter[str]:
        """The problem codes of the connections that were answered and closed."""
        bodies = [answer.result().rpartition(b"\r\n")[2] for answer in self.answers if answer.done()]
        return Counter(json.loads(body).get("code", "none") for body in bodies)


async def test_a_body_that_has_ended_does_not_count() -> None:
    arrivals = Arrivals(limit=3, limit_per_client=2)
    for _ in range(10):
        one, other = arrivals.begin(b"client", 0), arrivals.begin(b"client", 0)
        assert not one.refused
        for arrival in (one, other, other):
            arrivals.end(arrival)
    first = arrivals.begin(b"client", 0)
    for _ in range(2):
        arrivals.begin(b"client", 0)
    assert first.refused


async def test_bytes_of_bodies_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ARRIVING_LIMIT_PER_CLIENT", 100)
    monkeypatch.setattr(bodies, "ARRIVING_LIMIT", 250)
    arrivals = Arrivals()
    first, second, third = (arrivals.begin(b"one", 0) for _ in range(3))
    arrivals.grow(first, 60)
    arrivals.grow(second, 40)
    assert not first.refused
    arrivals.grow(third, 50)
    assert (first.refused, second.refused, arrivals.size) == (True, False, 90)
    # What still arrives of it is not counted.
    arrivals.grow(first, 1000)
    others = [arrivals.begin(b"%d" % number, 0) for number in range(2)]
    for other in others:
        arrivals.grow(other, 90)
    assert [arrival.refused for arrival in (second, third, *others)] == [True, False, False, False]
    for arrival in (third, *others):
        arrivals.end(arrival)
    assert (arrivals.size, not arrivals._sizes, not arrivals._by_client) == (0, True, True)


async def test_a_refusal_keeps_no_body_in_memory() -> None:
    """An error that was raised has a traceback, and that has the body in its frames."""
    arrival = Arrivals().begin(b"client", 0)
    errors = []
    for _ in range(2):
        with pytest.raises(ShopError) as raised:
            await arrival.receive(asyncio.Event().wait)  # type: ignore[arg-type]
        errors.append(raised.value)
    assert errors[0] is not errors[1]


class TestBodiesThatDoNotArrive:
    """Take no place of a request, and give way to bodies that arrive."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"MAX_IN_FLIGHT": "4", "ADMIN_TOKEN": ADMIN_TOKEN}

    @pytest.fixture(autouse=True)
    def linger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "LINGER_SECONDS", 0.01)

    async def test_leave_all_others_served(self, shop: Shop) -> None:
        async with Silent(shop.url) as silent:
            await silent.open(MAX_BODIES_PER_CLIENT + 50)

            async def all_counted() -> bool:
                return silent.codes() == {"rate_limited": 50}

            await eventually(all_counted)
            for number in range(20):
                # From the same address, with the body in a later segment.
                head, staff = {"Content-Type": "application/json"}, {"Authorization": f"Bearer {ADMIN_TOKEN}"}
                name = f"Category {number}".encode()
                answer = await shop.http.post("/categories", content=_late(name), headers={**head, **staff})
                assert answer.status_code == 201
                await shop.call("GET", "/products", 200)
                await shop.create_cart()
            assert set(silent.codes()) == {"rate_limited"}

    async def test_are_limited_in_total(self, shop: Shop) -> None:
        async with Silent(shop.url) as silent:
            addresses = [f"127.0.1.{number}" for number in range(1, MAX_BODIES // MAX_BODIES_PER_CLIENT + 1)]
            for address in addresses:
                await silent.open(MAX_BODIES_PER_CLIENT, address)
            await shop.call("GET", "/products", 200)
            assert silent.codes() == {}
            (last,) = await silent.open(1, "127.0.2.1")

            async def one_refused() -> bool:
                return silent.codes() == {"busy": 1}

            await eventually(one_refused)
            assert silent.answers[0].done()
            last.write(b"{}")

            async def one_served() -> bool:
                return silent.answers[-1].done()

            last.write(b"GET /health/live HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            await eventually(one_served)
            assert silent.answers[-1].result().startswith(b"HTTP/1.1 201")

    async def test_are_ignored_for_a_while_unless_there_are_many(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bodies, "LINGER_SECONDS", 3600)
        monkeypatch.setattr(limits, "MAX_LINGERING", 2)
        monkeypatch.setattr(Arrivals, "begin", partialmethod(_begin_and_refuse, Arrivals.begin))
        async with Silent(shop.url) as silent:
            await silent.open(5)

            async def three_answered() -> bool:
                return silent.codes() == {"busy": 3}

            await eventually(three_answered)

    async def test_are_limited_in_bytes(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "ARRIVING_LIMIT_PER_CLIENT", 50_000)
        async with Silent(shop.url) as silent:
            for writer in await silent.open(3):
                # `Silent` has announced two bytes; this request comes after them.
                writer.write(b"{}" + SILENT.replace(b"Length: 2", b"Length: 60000") + 20_000 * b" ")

            async def one_refused() -> bool:
                return any(answer.done() for answer in silent.answers)

            await eventually(one_refused)
            assert [b'"code":"rate_limited"' in answer.result() for answer in silent.answers if answer.done()] == [True]
            await shop.create_cart()

    async def test_do_not_delay_the_answer_of_a_guard(self, shop: Shop) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]))
        writer.write(SILENT.replace(b"/carts", b"/products"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 401")
        await reader.readuntil(b"}")
        # The body that arrives later is not taken for a request; the request after it is answered.
        writer.write(b"{}" + b"GET /health/live HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 200")
        writer.close()

    async def test_are_skipped_up_to_a_limit(self, shop: Shop) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]))
        writer.write(SILENT.replace(b"/carts", b"/products").replace(b"Length: 2", b"Length: 1000000000"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 401")
        with pytest.raises(ConnectionError):
            await _pour(writer, 100_000_000)
        writer.close()


def _begin_and_refuse(arrivals: Arrivals, begin: Callable[..., Arrival], client: bytes, deadline: float) -> Arrival:
    arrival = begin(arrivals, client, deadline)
    arrivals.end(arrival)
    arrival.refuse("busy", "Refused.")
    return arrival


async def _pour(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(0, size, 65_536):
        writer.write(65_536 * b"x")
        await asyncio.wait_for(writer.drain(), 20)


async def _late(name: bytes) -> AsyncIterator[bytes]:
    await asyncio.sleep(0.01)
    yield b'{"name": "%b"}' % name


class TestASlowClient:
    """Has a limited time."""

    async def test_to_send_its_body(self, settings: Settings) -> None:
        gate = ConcurrencyLimitMiddleware(create_app(settings), 1, Clients(settings), client_seconds=0.05)
        async with served(gate) as url:
            for begun in (b"", b"{"):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                writer.write(SILENT + begun)
                # `read` returns when the connection is closed.
                head, _, body = (await asyncio.wait_for(reader.read(), 20)).decode().partition("\r\n\r\n")
                assert head.startswith("HTTP/1.1 408 ")
                assert "\r\nconnection: close\r\n" in head
                assert json.loads(body)["code"] == "request_timeout"
                writer.close()
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.post("/carts")).status_code == 201
            assert gate.free == 1

    async def test_to_read_the_response(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "READ_SECONDS", 0.05)
        # Two places, because one becomes free a moment after its response, when the next request begins already.
        gate = ConcurrencyLimitMiddleware(create_app(settings), 2, Clients(settings))
        async with served(gate) as url:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as slow:
                # More than all buffers on the way can hold.
                slow.sendall(17 * b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: shop\r\n\r\n")

                async def has_a_place() -> bool:
                    return gate.free == 1

                async def has_no_place() -> bool:
                    return gate.free == 2

                assert await eventually(has_a_place)
                assert await eventually(has_no_place)
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/products")).status_code == 200


class TestASlowStripe:
    """Makes its callers wait."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"DB_POOL_SIZE": "3", "MAX_IN_FLIGHT": "120", "STRIPE_TIMEOUT_SECONDS": "60"}

    async def test_does_not_slow_the_catalogue(
        self, shop: Shop, stripe: PausedStripe, database: asyncpg.Connection, crowd: Any
    ) -> None:
        tent = await shop.create_product(stock=1000)
        checkouts = crowd(await insert_carts(database, 100, (tent["id"], 1)))

        async def all_wait_or_are_refused() -> bool:
            return stripe.calls == 60 and sum(checkout.done() for checkout in checkouts) == 40

        await eventually(all_wait_or_are_refused)
        # They take half of the places, and no connection to the database.
        idle = "SELECT bool_and(state = 'idle') FROM pg_stat_activity WHERE application_name = 'commerce-api'"
        assert await eventually(lambda: database.fetchval(idle))
        assert await shop.get_stock(tent["id"]) == 900
        await shop.call("GET", "/products?limit=3", 200)
        await shop.create_cart((tent["id"], 1))
        stripe.go.set()
        outcomes: Outcomes = Counter(await asyncio.gather(*checkouts))
        assert outcomes == {(201, None): 60, (503, "payment_unavailable"): 40}
        await shop.checked_out_cart((tent["id"], 1))


class TestManyBuyers:
    """Wait for each other, and readers do not wait for them."""

    @pytest.fixture
    def changed_settings(self) -> dict[str, str]:
        return {"DB_POOL_SIZE": "4"}

    async def test_leave_connections_to_readers(self, shop: Shop, database: asyncpg.Connection) -> None:
        tent = await shop.create_product()
        open_carts = [await shop.create_cart((tent["id"], 1)) for _ in range(6)]
        async with database.transaction():
            await database.execute("SELECT FROM carts FOR NO KEY UPDATE")
            buying = [asyncio.create_task(shop.add_item(cart, tent["id"])) for cart in open_carts]
            await wait_for_blocked(database, 2)
            for _ in range(3):
                await shop.get_stock(tent["id"])
                await shop.call("GET", "/products?limit=3", 200)
            assert await count_blocked(database) == 2
        await asyncio.gather(*buying)


async def test_a_hot_product_does_not_block_others(
    shop: Shop, stripe: PausedStripe, database: asyncpg.Connection, crowd: Any
) -> None:
    stripe.go.set()
    tent, mug = await shop.create_product(stock=100), await shop.create_product(name="Mug")
    other = await shop.create_cart((mug["id"], 1))
    wanting = await insert_carts(database, 100, (tent["id"], 1))
    async with database.transaction():
        await database.execute("SELECT FROM products WHERE id = $1 FOR NO KEY UPDATE", tent["id"])
        checkouts = crowd(wanting)
        await wait_for_blocked(database, 3)
        for look in (
            lambda: shop.get_stock(tent["id"]),
            lambda: shop.call("GET", "/products?limit=3", 200),
            lambda: shop.create_cart((tent["id"], 1)),
            lambda: shop.check_out(other),
        ):
            await look()
            # If the whole pool waited for the one row, these calls would wait until some checkouts gave up.
            assert await count_blocked(database) <= 3
    outcomes: Outcomes = Counter(await asyncio.gather(*checkouts))
    # Some may have given up: a wait for a lock is limited to seconds.
    assert set(outcomes) <= {(201, None), (503, "busy")}
    assert await shop.get_stock(tent["id"]) == 100 - outcomes[201, None]


async def test_a_cart_with_many_edits_does_not_block_others(
    shop: Shop, stripe: PausedStripe, database: asyncpg.Connection
) -> None:
    tent = await shop.create_product()
    cart, other = await shop.create_cart(), await shop.create_cart()
    async with database.transaction():
        await database.execute("SELECT FROM carts WHERE id = $1 FOR NO KEY UPDATE", UUID(cart))
        path = f"/carts/{cart}/items"
        edits = [
            asyncio.create_task(shop.http.request(method, where, json=body))
            for method, where, body in (
                *10 * [("POST", path, {"product_id": tent["id"], "quantity": 1})],
                *10 * [("PUT", f"{path}/{tent['id']}", {"quantity": 3})],
                *10 * [("DELETE", f"{path}/{tent['id']}", None)],
            )
        ]
        await wait_for_blocked(database, 3)
        await shop.add_item(other, tent["id"])
        assert await count_blocked(database) <= 3
    assert {answer.status_code for answer in await asyncio.gather(*edits)} <= {200, 503}


async def test_a_cart_with_many_checkouts_does_not_block_others(
    shop: Shop, stripe: PausedStripe, database: asyncpg.Connection, crowd: Any
) -> None:
    stripe.go.set()
    tent, mug = await shop.create_product(), await shop.create_product(name="Mug")
    cart, other = await shop.create_cart((tent["id"], 1)), await shop.create_cart()
    async with database.transaction():
        await database.execute("SELECT FROM products WHERE id = $1 FOR NO KEY UPDATE", tent["id"])
        checkouts = crowd(20 * [cart])
        await wait_for_blocked(database, 3)
        await shop.add_item(other, mug["id"])
        assert await count_blocked(database) <= 3
    outcomes: Outcomes = Counter(await asyncio.gather(*checkouts))
    # While one of them creates the session, the others are refused.
    assert set(outcomes) <= {(201, None), (200, None), (409, "checkout_in_progress"), (503, "busy")}
    assert outcomes[201, None] <= 1
    assert await shop.get_stock(tent["id"]) == 9
