"""The first page as the protocol answers it: the route's own answer, and nothing else goes that way."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.http.server.protocol import PIPELINE_LIMIT
from service.infra.metrics import exposition
from service.settings import Settings
from tests.client import Shop, eventually
from tests.conftest import SERVED, served

# The path of each request that came to the application.
Asked = list[str]
Exchange = Callable[[bytes], Awaitable[bytes]]

PLAIN = b"GET /products HTTP/1.1\r\nHost: shop\r\n\r\n"
# As it is none of those that are plain, the route answers.
BY_THE_ROUTE = b"GET /products HTTP/1.1\r\nHost: shop\r\nOrigin: https://elsewhere.example\r\n\r\n"
# Whatever this stands behind is answered before the connection ends.
LAST = b"GET /health/live HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
async def shop(settings: Settings, stripe: StripeStandin, asked: Asked) -> AsyncIterator[Shop]:
    app = create_app(settings)
    edge = app.edge

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.append(scope["path"])
        await edge(scope, receive, send)

    app.edge = noted
    async with served(app) as url, Shop(url) as client:
        yield client


@pytest.fixture
async def exchange(shop: Shop, asked: Asked) -> Exchange:
    """Send bytes over a connection of their own, and have all that comes until it ends; the page is in the cache."""
    await shop.create_product()
    await shop.http.get("/products")
    asked.clear()

    async def send(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]))
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    return send


def without_names(answer: bytes) -> bytes:
    """An answer without its date, and the ids of requests."""
    return re.sub(rb"(date|x-request-id): [^\r]*", rb"\1", answer)


async def test_it_is_the_routes_answer_byte_for_byte(exchange: Exchange, asked: Asked) -> None:
    quick = await exchange(PLAIN + LAST)
    assert asked == ["/health/live"]
    assert b'"name":"Tent"' in quick
    slow = await exchange(BY_THE_ROUTE + LAST)
    assert asked == ["/health/live", "/products", "/health/live"]
    assert without_names(quick) == without_names(slow)


async def test_those_of_one_connection_are_answered_in_their_order(exchange: Exchange, asked: Asked) -> None:
    other = b"GET /health/live HTTP/1.1\r\nHost: shop\r\n\r\n"
    named = [PLAIN.replace(b"\r\n\r\n", b"\r\nX-Request-ID: %d\r\n\r\n" % number) for number in range(4)]
    answers = await exchange(named[0] + named[1] + other + named[2] + other + named[3] + LAST)
    bodies = re.findall(rb'("next_cursor"|"status":"ok")', answers)
    page, live = b'"next_cursor"', b'"status":"ok"'
    assert bodies == [page, page, live, page, live, page, live]
    assert re.findall(rb"x-request-id: ([0-3])\r", answers) == [b"0", b"1", b"2", b"3"]
    assert asked == 3 * ["/health/live"]


async def test_it_is_named_counted_and_logged_as_any_other(
    shop: Shop,
    exchange: Exchange,
    asked: Asked,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO", "service.http")
    counted = 'http_requests_total{method="GET",route="/products",status="200"} '
    before = exposition().decode().partition(counted)[2].partition("\n")[0]
    capfd.readouterr()
    for name, kept in ((b"mine-1", True), (b"no name", False)):
        answer = await exchange(PLAIN.replace(b"\r\n\r\n", b"\r\nX-Request-ID: %b\r\n\r\n" % name) + LAST)
        assert (b"x-request-id: %b\r\n" % name in answer) == kept
    assert asked == 2 * ["/health/live"]
    said = [line for line in capfd.readouterr().err.splitlines() if '"route":"/products"' in line]
    assert len(said) == 2
    assert '"cause":"request mine-1"' in said[0]
    assert '"method":"GET","route":"/products","status":200,"seconds":0.0' in said[0]
    after = exposition().decode().partition(counted)[2].partition("\n")[0]
    assert float(after) == float(before) + 2


@pytest.mark.parametrize(
    ("request_", "ends"),
    [
        pytest.param(PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), True, id="an old client"),
        pytest.param(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True, id="one that hangs up"),
        pytest.param(PLAIN.replace(b"GET", b"HEAD"), False, id="HEAD"),
        pytest.param(PLAIN.replace(b"products", b"products?limit=1"), False, id="another page"),
        pytest.param(PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"), False, id="a body"),
    ],
)
async def test_whatever_is_not_plainly_that_is_for_the_route(
    exchange: Exchange, asked: Asked, request_: bytes, ends: bool
) -> None:
    answer = await exchange(request_ if ends else request_ + LAST)
    assert asked == (["/products"] if ends else ["/products", "/health/live"])
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    head = answer.partition(b"\r\n\r\n")[0]
    assert (b"connection: close" in head) == ends
    assert answer.count(b'"next_cursor"') == (0 if b"HEAD" in request_ else 1)


async def test_a_page_that_is_not_fresh_is_for_the_route(shop: Shop, exchange: Exchange, asked: Asked) -> None:
    await shop.create_product(name="Mug")
    asked.clear()
    assert b'"name":"Mug"' in await exchange(PLAIN + LAST)
    assert b'"name":"Mug"' in await exchange(PLAIN + LAST)
    assert asked == ["/products", *2 * ["/health/live"]]


async def test_who_takes_no_answers_is_not_written_any(shop: Shop, exchange: Exchange, asked: Asked) -> None:
    for _ in range(19):
        await shop.create_product(name="n" * 200)
    await exchange(PLAIN + LAST)
    asked.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shop.url.rpartition(":")[2]), limit=2**16)
    state = SERVED[shop.url].server_state
    count = 0
    # What does not fit is for the application, which waits until there is room, with all that is behind it.
    while not asked:
        answered = state.total_requests
        writer.write(PIPELINE_LIMIT * PLAIN)
        count += PIPELINE_LIMIT

        async def all_answered(goal: int = answered + PIPELINE_LIMIT) -> bool:
            return bool(asked) or state.total_requests >= goal

        await eventually(all_answered)
    assert set(asked) == {"/products"}
    writer.write(LAST)
    answers = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    assert answers.count(b"HTTP/1.1 200 OK") == count + 1
