"""Requests for a protocol upgrade, which this server ignores: their body is a body, and never the next request."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.dev.stripe_standin import StripeStandin
from service.settings import Settings
from tests.client import Shop
from tests.conftest import served
from tests.proxies import proxy
from tests.stripe_events import deliver, make_event
from tests.tools import require_programs

# Each request that reached the application: the client's port, the method and the path.
Requests = list[tuple[int, str, str]]

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
BODY = b'{"amount_minor": 100}'
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n7\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\n\r\n" % (
    BODY[:7],
    len(BODY) - 7,
    BODY[7:],
)
# A body that is a request of its own for a server that drops bodies.
SMUGGLED = b"DELETE /smuggled HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\r\n"
NEXT = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def requests() -> Requests:
    return []


@pytest.fixture
async def shop(settings: Settings, stripe: StripeStandin, requests: Requests) -> AsyncIterator[Shop]:
    app = create_app(settings)
    edge = app.edge

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            requests.append((scope["client"][1], scope["method"], scope["path"]))
        await edge(scope, receive, send)

    app.edge = recording
    async with served(app) as url, Shop(url) as client:
        yield client


@pytest.fixture
async def refund(shop: Shop, stripe: StripeStandin, requests: Requests) -> str:
    """The path that refunds a paid order of 41,400."""
    stripe.set_webhooks(drop=True)
    tent = await shop.create_product(price_minor=41_400)
    placed = await shop.checked_out_cart((tent["id"], 1))
    session = stripe.pay(placed["payment"]["stripe_session_id"])
    assert await deliver(shop, make_event("checkout.session.completed", session)) == "applied"
    requests.clear()
    return f"/orders/{placed['order_id']}/refund"


async def refunded(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT sum(amount_minor) FROM refunds"))


async def exchange(shop: Shop, *segments: bytes) -> bytes:
    """Send the segments one by one, so that the server reads each alone. Returns all that it sends until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(shop))
    writer.transport.set_write_buffer_limits(0)
    for segment in segments:
        writer.write(segment)
        await writer.drain()
        # The server runs in this event loop, and reads now.
        await asyncio.sleep(0.001)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


def port_of(shop: Shop) -> int:
    return int(shop.url.rpartition(":")[2])


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def post(path: str, upgrade: bytes, rest: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path.encode()
    return head + upgrade + rest


@pytest.mark.parametrize("rest", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("upgrade", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
async def test_the_body_is_read_in_any_segments(
    shop: Shop, refund: str, database: asyncpg.Connection, requests: Requests, upgrade: bytes, rest: bytes
) -> None:
    sent = post(refund, upgrade, rest)
    head = sent.index(b"\r\n\r\n") + 4
    ways: list[tuple[bytes, ...]] = [
        (sent + NEXT + LAST,),
        (sent[:head], sent[head:] + NEXT + LAST),
        (sent[:head], sent[head:], NEXT, LAST),
        tuple(bytes([byte]) for byte in sent + NEXT + LAST),
    ]
    for number, segments in enumerate(ways, 1):
        requests.clear()
        assert statuses(await exchange(shop, *segments)) == [200, 200, 200], segments
        assert [call[1:] for call in requests] == [("POST", refund), *2 * [("GET", "/health/live")]]
        assert await refunded(database) == 100 * number


async def test_the_body_is_read_wherever_it_is_split(shop: Shop, requests: Requests) -> None:
    for rest in (LENGTH, CHUNKED):
        sent = post("/orders", H2C, rest) + LAST
        for split in range(1, len(sent)):
            requests.clear()
            assert statuses(await exchange(shop, sent[:split], sent[split:])) == [405, 200], split
            assert [call[1:] for call in requests] == [("POST", "/orders"), ("GET", "/health/live")], split


@pytest.mark.parametrize("upgrade", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
async def test_a_body_is_never_a_request(shop: Shop, requests: Requests, upgrade: bytes) -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    for rest in (b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, chunked):
        for path, status in (("/carts", 400), ("/c4nary", 404)):
            sent = post(path, upgrade, rest)
            head = sent.index(b"\r\n\r\n") + 4
            for segments in ((sent + LAST,), (sent[:head], sent[head:], LAST)):
                requests.clear()
                assert statuses(await exchange(shop, *segments)) == [status, 200]
                assert [call[1:] for call in requests] == [("POST", path), ("GET", "/health/live")]


@pytest.mark.parametrize("rest", [LENGTH, CHUNKED, b"\r\n"], ids=["length", "chunked", "none"])
async def test_the_last_request_of_a_connection_is_answered(shop: Shop, requests: Requests, rest: bytes) -> None:
    sent = post("/c4nary", H2C, rest)
    # HTTP/1.0 has no chunks.
    old = [sent.replace(b"HTTP/1.1", b"HTTP/1.0")] if rest != CHUNKED else []
    for last in (sent.replace(b"Upgrade, ", b"close, Upgrade, "), *old):
        head = last.index(b"\r\n\r\n") + 4
        for segments in ((last,), (last + NEXT,), (last[:head], last[head:])):
            requests.clear()
            assert statuses(await exchange(shop, *segments)) == [404]
            assert [call[1:] for call in requests] == [("POST", "/c4nary")]


async def test_without_a_body_the_next_request_follows(shop: Shop, requests: Requests) -> None:
    one = NEXT.replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n")
    for segments in ((one + one + NEXT + LAST,), (one, one, NEXT, LAST)):
        assert statuses(await exchange(shop, *segments)) == 4 * [200]
    trailers = b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    for upgrade in (b"", H2C):
        assert statuses(await exchange(shop, post("/c4nary", upgrade, trailers) + LAST)) == [404, 200]


async def test_a_request_with_an_upgrade_equals_the_one_without(shop: Shop, settings: Settings) -> None:
    """Goal: the head, which is parsed twice, loses its Upgrade and nothing else. Method: compare scope and body."""
    received: list[tuple[Scope, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            received.append((scope, (await receive())["body"]))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    odd = b"X-Empty:\r\nX-Tab: a\tb  \r\nX-Latin: caf\xe9\r\nX-Colon: a: b\r\nx-Twice: 1\r\nX-Twice: 2\r\n"
    async with served(app) as url:
        for rest in (LENGTH, CHUNKED):
            for target in ("/a%20b//c?d=%ff&e", "http://shop/x?y"):
                for upgrade in (b"Connection: Upgrade\r\nUPGRADE: h2c\r\n", b"Connection: Upgrade\r\n"):
                    sent = post(target, odd + upgrade, rest)
                    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                    writer.write(sent)
                    assert (await reader.readline()).startswith(b"HTTP/1.1 204")
                    writer.close()
                (upgraded, body), (plain, same) = received[-2:]
                del upgraded["client"], plain["client"]
                assert upgraded == plain
                assert body == same == BODY


@pytest.mark.parametrize("target", [b"shop:443", b"/carts", b"/health/live", b"*"])
async def test_connect_opens_no_tunnel(shop: Shop, requests: Requests, target: bytes) -> None:
    for extra in (b"", H2C, b"Content-Length: %d\r\n" % len(SMUGGLED)):
        connect = b"CONNECT %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (target, extra)
        for segments in ((connect + SMUGGLED,), (NEXT, connect + SMUGGLED)):
            answers = await exchange(shop, *segments)
            assert statuses(answers)[-1] == 405
            assert b'"code":"method_not_allowed"' in answers
            assert b"connection: close" in answers.lower()
    assert {call[1:] for call in requests} == {("GET", "/health/live")}


async def test_a_refusal_cannot_be_taken_for_an_earlier_response(shop: Shop, requests: Requests) -> None:
    """While an earlier request waits for its response, malformed data ends the connection without a response."""
    for junk in (
        b"c4nary\r\n\r\n",
        b"CONNECT shop:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        assert await exchange(shop, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n" + junk) == b""
    # A malformed body is refused as the response to its request. After that response there is no other.
    broken = post("/carts", b"", b"Transfer-Encoding: chunked\r\n\r\n")
    assert statuses(await exchange(shop, broken, b"c4nary\r\n")) == [400]
    assert statuses(await exchange(shop, broken.replace(b"/carts", b"/c4nary"), b"c4nary\r\n")) == [404]


async def test_curl_with_http2_gets_its_refund(shop: Shop, refund: str, database: asyncpg.Connection) -> None:
    (curl,) = require_programs("curl")
    form = ("-sS", "-o", "/dev/null", "-w", "%{http_code}")
    assert await run(curl, *form, "--http2", "--json", BODY.decode(), shop.url + refund) == "200"
    assert await refunded(database) == 100


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Refund {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int time = 0; time < 2; time++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


async def test_javas_client_gets_its_refunds(
    shop: Shop, refund: str, database: asyncpg.Connection, tmp_path: Path
) -> None:
    (java,) = require_programs("java")
    source = tmp_path / "Refund.java"
    source.write_text(JAVA)
    assert (await run(java, str(source), shop.url + refund, BODY.decode())).split() == ["200", "200"]
    assert await refunded(database) == 200


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("more", ["", "proxy_request_buffering off;"], ids=["whole", "streamed"])
async def test_behind_nginx_each_user_gets_their_own_response(
    shop: Shop, refund: str, database: asyncpg.Connection, requests: Requests, more: str
) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "h2c", "Content-Type": "application/json"}
    async with (
        proxy("nginx", port_of(shop), f"proxy_set_header Host $http_host; {more}") as url,
        httpx.AsyncClient(base_url=url) as first,
        httpx.AsyncClient(base_url=url) as second,
    ):
        for body, status in ((BODY, 200), (SMUGGLED, 400)):
            answer = await first.post(refund, content=body, headers=upgrade)
            assert answer.status_code == status
            other = await second.get("/products?limit=1")
            assert (other.status_code, list(other.json())) == (200, ["items", "next_cursor"])
    assert [call[1:] for call in requests] == 2 * [("POST", refund), ("GET", "/products")]
    assert len({port for port, _, _ in requests}) == 1
    assert await refunded(database) == 100
