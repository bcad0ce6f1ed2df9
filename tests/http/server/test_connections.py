"""Limits for connections: idle ones, unfinished heads, responses that are not read, and resets."""

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from starlette.types import Receive, Scope, Send

from service.http.server import protocol
from service.http.server.connections import Bytes, Idle
from service.http.server.protocol import Protocol
from tests.client import eventually
from tests.conftest import SERVED

GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
SLOW = GET.replace(b"/a", b"/slow")
LARGE = GET.replace(b"/a", b"/large")
# More than the kernel buffers for a client that does not read.
LARGE_SIZE = 20_000_000

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[..., Awaitable[Streams]]


class PausedApp:
    """Answers `/slow` once `may_answer` is set, `/large` with many bytes, and all else at once."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.size = LARGE_SIZE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/slow":
            await self.may_answer.wait()
        body = self.size * b"x" if scope["path"] == "/large" else b"ok"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def app() -> PausedApp:
    return PausedApp()


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Connect]:
    """Opens a connection from a local address, sends, and waits for the start of an answer if there is one."""
    writers = []

    async def open_connection(sent: bytes = b"", *, answer: bool = True, address: str = "127.0.0.1") -> Streams:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        writers.append(writer)
        writer.write(sent)
        if answer:
            assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
        return reader, writer

    yield open_connection
    for writer in writers:
        writer.transport.abort()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switches the garbage collector off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, also by a reset."""
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""


async def is_open(streams: Streams) -> bool:
    """Whether another request is answered."""
    reader, writer = streams
    reader._buffer.clear()  # type: ignore[attr-defined]
    writer.write(GET)
    try:
        return bool(await asyncio.wait_for(reader.readline(), 20))
    except ConnectionError:
        return False


class TestIdleConnections:
    """Are limited, for each address and in total."""

    async def test_the_longest_idle_one_of_an_address_is_closed(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Protocol, "idle", Idle(limit=100, limit_per_address=3))
        first, second, third = [await connect(GET) for _ in range(3)]
        other = await connect(GET, address="127.0.0.2")
        assert await is_open(first)

        fourth = await connect(GET)

        assert not await is_open(second)
        assert [await is_open(streams) for streams in (first, third, fourth, other)] == 4 * [True]

    async def test_the_longest_idle_one_of_all_is_closed(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Protocol, "idle", Idle(limit=3, limit_per_address=2))
        opened = [await connect(GET, address=f"127.0.0.{number}") for number in (1, 2, 3, 4)]

        assert [await is_open(streams) for streams in opened] == [False, True, True, True]

    async def test_one_that_never_sent_anything_is_idle(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Protocol, "idle", Idle(limit=100, limit_per_address=2))
        for sent in (b"", GET[:20]):
            reader, _ = await connect(sent, answer=False)
            for _ in range(2):
                await connect(GET)
            assert await ended(reader) == b""

    async def test_one_with_a_request_is_not_closed(
        self, app: PausedApp, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Protocol, "idle", Idle(limit=100, limit_per_address=1))
        reader, _ = await connect(SLOW, answer=False)
        for _ in range(3):
            await connect(GET)

        app.may_answer.set()

        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")

    async def test_leave_files_for_the_pools(self, url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "max_connections", lambda: 3)
        idle = await connect(GET)
        for _ in range(2):
            await connect(SLOW, answer=False)
        latest = await connect(GET)
        assert not await is_open(idle)
        await connect(SLOW, answer=False)
        assert not await is_open(latest)
        # All others have requests.
        reader, _ = await connect(answer=False)
        assert await ended(reader) == b""
        assert len(SERVED[url].server_state.connections) == 3

    async def test_are_counted_until_they_end(self, connect: Connect, app: PausedApp) -> None:
        before = len(Protocol.idle._all)

        async def counted(number: int) -> bool:
            return len(Protocol.idle._all) == before + number

        streams = [await connect(GET) for _ in range(3)]
        await eventually(lambda: counted(3))
        streams.append(await connect(SLOW, answer=False))
        streams[0][1].write(SLOW)
        await eventually(lambda: counted(2))
        app.may_answer.set()
        await eventually(lambda: counted(4))
        for _, writer in streams:
            writer.transport.abort()
        await eventually(lambda: counted(0))

    def test_an_ipv6_client_has_the_addresses_of_its_network(self) -> None:
        networks = [protocol._network(address) for address in ("2001:db8:1:2::1", "2001:db8:1:2:ff::", "2001:db8::1")]
        assert networks == ["2001:db8:1:2::/64", "2001:db8:1:2::/64", "2001:db8::/64"]
        assert protocol._network("192.0.2.1") == "192.0.2.1"
        assert protocol._network("fe80::1%eth0") == "fe80::/64"


async def test_unfinished_heads_have_a_limit_in_bytes(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "unfinished", Bytes(2500))
    head = b"GET /a HTTP/1.1\r\nHost: shop\r\nX: " + 1000 * b"a"
    slow = [await connect(head, answer=False) for _ in range(4)]
    assert [await ended(reader) for reader, _ in slow[:2]] == [b"", b""]
    for reader, writer in slow[2:]:
        writer.write(b"\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
    assert Protocol.unfinished.used == 0
    # Those that come in small pieces are counted too.
    reader, writer = await connect(answer=False)
    for piece in (head[at : at + 10] for at in range(0, len(head), 10)):
        writer.write(piece)
        await asyncio.sleep(0)

    async def counted() -> bool:
        return len(head) <= Protocol.unfinished.used < 2 * len(head)

    await eventually(counted)


async def test_responses_that_are_not_read_have_a_limit_in_bytes(
    url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = Bytes(LARGE_SIZE + LARGE_SIZE // 2)
    monkeypatch.setattr(Protocol, "unread", unread)

    async def all_paused(number: int) -> bool:
        return len(unread._sizes) == number

    first = await connect(LARGE)
    await eventually(lambda: all_paused(1))
    second = await connect(LARGE)
    assert len(await ended(first[0])) < LARGE_SIZE
    assert len(await asyncio.wait_for(second[0].readuntil(b"\r\n\r\n"), 20)) > 0
    assert len(await asyncio.wait_for(second[0].readexactly(LARGE_SIZE), 20)) == LARGE_SIZE
    assert unread.used == 0


async def test_a_response_behind_one_that_is_not_read_is_dropped(
    no_collector: None, url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: an error is not logged, and nothing is left in memory. Method: the garbage collector is switched off."""
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.05)
    before = _count_protocols()
    await connect(2 * LARGE + GET)

    async def is_lost() -> bool:
        return not SERVED[url].server_state.connections and not SERVED[url].server_state.tasks

    await eventually(is_lost)
    await asyncio.sleep(0.01)
    assert _count_protocols() == before
    assert not caplog.records


async def test_a_body_is_kept_in_small_parts_until_it_is_read(url: str, connect: Connect) -> None:
    """Of an application that does not read it."""
    head = SLOW.replace(b"GET", b"POST")[:-2] + b"Content-Length: 60000\r\n\r\n"
    await connect(head + 9_000 * b"x", answer=False)
    (connection,) = SERVED[url].server_state.connections

    async def is_paused() -> bool:
        return connection.flow.read_paused

    await eventually(is_paused)
    assert len(connection.cycle.body) == 9_000


async def test_a_few_bytes_that_are_not_read_end_the_connection_too(
    app: PausedApp, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that the kernel takes except for less than uvicorn's high-water mark of 64 KiB."""
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "SEND_BUFFER", 4096)
    app.size = 60_000
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(LARGE)

        async def is_paused() -> bool:
            return any(connection.flow.write_paused for connection in SERVED[url].server_state.connections)

        async def is_lost() -> bool:
            return not SERVED[url].server_state.connections

        await eventually(is_paused)
        (connection,) = SERVED[url].server_state.connections
        # Not the end of an idle connection.
        connection._unset_keepalive_if_required()
        assert 0 < connection.transport.get_write_buffer_size() < 65_536
        await eventually(is_lost)


@pytest.mark.parametrize(
    "sent",
    [b"", GET, GET[:20], GET + GET[:20], SLOW, b"POST" + SLOW[3:-2] + b"Content-Length: 9\r\n\r\n"],
    ids=["nothing", "a request", "a head", "a request and a head", "a slow request", "a body"],
)
async def test_a_reset_frees_the_connection(no_collector: None, app: PausedApp, url: str, sent: bytes) -> None:
    """Goal: neither a timer nor the garbage collector has to free a connection that its client has reset.

    Method: count uvicorn's connections, with the collector switched off.
    """
    before = _count_protocols()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.setblocking(False)
            client.sendall(sent)
            await asyncio.sleep(0.005)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def all_lost() -> bool:
        return not SERVED[url].server_state.connections

    await eventually(all_lost)
    app.may_answer.set()
    await asyncio.sleep(0.01)
    assert _count_protocols() == before


async def test_an_idle_connection_keeps_no_request(url: str, connect: Connect) -> None:
    await connect(GET)
    body = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\n"
    _, early = await connect(body)
    connections = SERVED[url].server_state.connections

    async def dropped(number: int) -> bool:
        return [connection.cycle is None for connection in connections].count(True) == number

    await eventually(lambda: dropped(1))
    early.write(b"{}")
    await eventually(lambda: dropped(2))


async def test_the_kernel_buffers_little_of_a_response(url: str, connect: Connect) -> None:
    await connect(GET)
    (connection,) = SERVED[url].server_state.connections
    # Linux doubles the size that we set.
    size = connection.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert size <= 2 * protocol.SEND_BUFFER


def _count_protocols() -> int:
    return sum(type(candidate) is Protocol for candidate in gc.get_objects())
