"""Requests that a connection sends before it has responses: a few may wait, more end the connection."""

import asyncio
import gc
import socket

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.server import bodies
from service.http.server.protocol import PIPELINE_LIMIT, RECEIVE_BUFFER
from service.infra.page_cache import PageCache
from tests.client import Shop, eventually
from tests.conftest import SERVED

MOST = 1 + PIPELINE_LIMIT


class PausedApp:
    """An application that answers each request with its path, as soon as `may_answer` is set."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.requests.append(scope["path"])
        await self.may_answer.wait()
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def has_request(self) -> bool:
        return bool(self.requests)


@pytest.fixture(autouse=True)
def linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends too much is ignored for 10 ms only, then closed."""
    monkeypatch.setattr(bodies, "LINGER_SECONDS", 0.01)


@pytest.fixture
async def app() -> PausedApp:
    return PausedApp()


def gets(*paths: object) -> bytes:
    return b"".join(b"GET /%b HTTP/1.1\r\nHost: shop\r\n\r\n" % str(path).encode() for path in paths)


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All data until the connection ends, also by a reset."""
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""


async def test_requests_within_the_limit_are_answered_in_their_order(app: PausedApp, url: str) -> None:
    reader, writer = await connect(url)
    app.may_answer.set()
    for _ in range(3):
        writer.write(gets(*range(MOST)))
        for number in range(MOST):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(len(str(number)) + 1) == b"/%d" % number
    assert app.requests == 3 * [f"/{number}" for number in range(MOST)]
    writer.close()


@pytest.mark.parametrize("count", [MOST + 1, 5000])
async def test_one_request_more_ends_the_connection(app: PausedApp, url: str, count: int) -> None:
    reader, writer = await connect(url)
    writer.write(gets(*range(count)))
    assert await ended(reader) == b""
    writer.close()
    assert app.requests in ([], ["/0"])
    app.may_answer.set()
    # Other clients are not affected.
    reader, writer = await connect(url)
    writer.write(gets("other"))
    assert await asyncio.wait_for(reader.readuntil(b"/other"), 20)
    writer.close()
    assert app.requests[-1] == "/other"
    assert len(app.requests) <= 2


async def test_a_flooding_connection_is_ignored_before_it_is_closed(
    app: PausedApp, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LINGER_SECONDS", 3600)
    _, writer = await connect(url)
    writer.write(gets("first"))
    await eventually(app.has_request)
    (connection,) = SERVED[url].server_state.connections
    writer.write(gets(*range(5000)))

    async def is_ignored() -> bool:
        return connection._linger_timer is not None

    await eventually(is_ignored)
    app.may_answer.set()
    writer.write(gets(*range(1_000_000)))
    # Other clients are answered meanwhile.
    reader, other = await connect(url)
    other.write(gets("other"))
    await asyncio.wait_for(reader.readuntil(b"/other"), 20)
    assert app.requests == ["/first", "/other"]
    assert not connection.transport.is_closing()
    assert writer.transport.get_write_buffer_size() > 0
    for opened in (writer, other):
        opened.transport.abort()


async def test_while_a_request_waits_no_data_is_read(app: PausedApp, url: str) -> None:
    reader, writer = await connect(url)
    writer.write(gets("first"))
    await eventually(app.has_request)
    writer.write(gets("second"))
    (connection,) = SERVED[url].server_state.connections
    # Linux doubles the size that we set.
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * RECEIVE_BUFFER

    async def waits() -> bool:
        return len(connection.pipeline) == 1

    await eventually(waits)
    # More than the kernel buffers.
    writer.write(gets(*(1_000_000 * [3])))
    await asyncio.sleep(0.1)
    assert len(connection.pipeline) == 1
    assert writer.transport.get_write_buffer_size() > 0
    app.may_answer.set()
    await ended(reader)
    writer.close()
    assert app.requests[:2] == ["/first", "/second"]
    assert len(app.requests) <= MOST + 2


async def test_a_first_page_that_waits_for_redis_is_counted(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[asyncio.Future[bytes]] = []

    async def page(cache: PageCache, render: object, members: str) -> bytes:
        waiting.append(asyncio.get_running_loop().create_future())
        return await waiting[-1]

    monkeypatch.setattr(PageCache, "page", page)
    for count, stays in ((MOST + 1, False), (MOST, True)):
        reader, writer = await connect(shop.url)
        writer.write(count * b"GET /products HTTP/1.1\r\nHost: shop\r\n\r\n")
        if stays:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.2)
        else:
            assert await ended(reader) == b""
        writer.close()
        assert len(waiting) == 1
        while waiting:
            waiting.pop().set_result(b"{}")
            await asyncio.sleep(0.01)


async def test_a_flood_leaves_nothing_in_memory(shop: Shop) -> None:
    """Goal: others are answered meanwhile, and no memory is lost. Method: count uvicorn's objects for a request."""

    async def cycles() -> int:
        gc.collect()
        return sum(isinstance(candidate, RequestResponseCycle) for candidate in gc.get_objects())

    before = await cycles()

    async def gone() -> bool:
        return await cycles() <= before + 2

    for _ in range(20):
        reader, writer = await connect(shop.url)
        writer.write(gets(*(2000 * "a")))
        await ended(reader)
        writer.close()
        assert await cycles() <= before + 2 * MOST
        await shop.call("GET", "/products?limit=1", 200)
    await eventually(gone)
