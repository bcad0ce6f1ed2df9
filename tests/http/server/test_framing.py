"""Requests that two parsers could read differently: read as RFC 9110 and 9112 say, or refused with their connection.

Each is sent directly, in one piece and byte by byte, and through proxies that share a connection among their clients.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import httptools
import pytest
from starlette.types import Receive, Scope, Send

from service.http.server.heads import Headers
from tests.client import eventually
from tests.conftest import served
from tests.proxies import proxy

# A body that is a request of its own for a parser that takes the frame for something else.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(SMUGGLED)
CODED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED)
END = b"0\r\n\r\n"
HOST = b"Host: shop\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"


class Trick(NamedTuple):
    """What is sent, and how it is read; `method` is empty where it is refused."""

    sent: bytes
    method: str = ""
    body: bytes = b""
    path: str = "/trick"
    # Whether its connection ends after the answer.
    last: bool = False


def get(headers: bytes = b"", line: bytes = b"GET /trick HTTP/1.1\r\n", host: bytes = HOST) -> bytes:
    return line + host + headers + b"\r\n"


def post(headers: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /trick HTTP/%b\r\n%b%b\r\n%b" % (version, HOST, headers, body)


def length(value: bytes) -> Trick:
    """A Content-Length that is refused."""
    return Trick(post(b"Content-Length:%b\r\n" % value, SMUGGLED))


def coding(line: bytes) -> Trick:
    """A Transfer-Encoding that is refused."""
    return Trick(post(line + b"\r\n", CHUNK + END))


def chunks(body: bytes) -> Trick:
    """A chunked body that is refused."""
    return Trick(post(CODED, body))


def read(headers: bytes, body: bytes, content: bytes = SMUGGLED) -> Trick:
    """A `POST` whose body is read."""
    return Trick(post(headers, body), "POST", content)


N = b"%d" % len(SMUGGLED)
TRICKS = {
    # Content-Length.
    "a length": read(LENGTH, SMUGGLED),
    "a length with zeros": read(b"Content-Length: 00%b\r\n" % N, SMUGGLED),
    "a length between tabs": read(b"Content-Length:\t%b\t \r\n" % N, SMUGGLED),
    "a length in capitals": read(b"CONTENT-LENGTH: %b\r\n" % N, SMUGGLED),
    "two equal lengths": Trick(post(LENGTH + LENGTH, SMUGGLED)),
    "two lengths": Trick(post(b"Content-Length: 0\r\n" + LENGTH, SMUGGLED)),
    "two lengths, the other way": Trick(post(LENGTH + b"Content-Length: 0\r\n", SMUGGLED)),
    "a list of lengths": length(b" %b, %b" % (N, N)),
    "a list of two lengths": length(b" 0, %b" % N),
    "an empty length": length(b""),
    "a length with a sign": length(b" +%b" % N),
    "a negative length": length(b" -1"),
    "a hexadecimal length": length(b" 0x%x" % len(SMUGGLED)),
    "a length with an underscore": length(b" 4_0"),
    "a length with a fraction": length(b" %b.0" % N),
    "a length with a letter": length(b" %ba" % N),
    "a length in two words": length(b" 0 %b" % N),
    "a length in other digits": length(" ４０".encode()),
    "a length with a vertical tab": length(b" \x0b%b" % N),
    "a length with a null": length(b" \x00%b" % N),
    "a length on a second line": length(b"\r\n %b" % N),
    "a length that goes on": length(b" %b\r\n 0" % N),
    "a length of 2^64": length(b" 18446744073709551616"),
    "a length of 2^64 and some": length(b" %d" % (2**64 + len(SMUGGLED))),
    "a length without a colon": Trick(post(b"Content-Length %b\r\n" % N, SMUGGLED)),
    "a space before the colon of a length": Trick(post(b"Content-Length : %b\r\n" % N, SMUGGLED)),
    "a tab before the colon of a length": Trick(post(b"Content-Length\t: %b\r\n" % N, SMUGGLED)),
    "a length before which is a space": Trick(b"POST /trick HTTP/1.1\r\n %b%b\r\n%b" % (LENGTH, HOST, SMUGGLED)),
    "a length of a GET": Trick(get(LENGTH) + SMUGGLED, "GET", SMUGGLED),
    "a length of a HEAD": Trick(get(LENGTH, b"HEAD /trick HTTP/1.1\r\n") + SMUGGLED, "HEAD", SMUGGLED),
    "a length with an underscore in its name": Trick(post(b"Content_Length: %b\r\n" % N, b""), "POST"),
    "no length": Trick(post(b"", b""), "POST"),
    # Transfer-Encoding, and both.
    "chunked": read(CODED, CHUNK + END),
    "chunked in capitals": read(b"TRANSFER-ENCODING: CHUNKED\r\n", CHUNK + END),
    "a coding, then a length": Trick(post(CODED + LENGTH, END + SMUGGLED)),
    "a length, then a coding": Trick(post(LENGTH + CODED, END + SMUGGLED)),
    "a coding and a length of 0": Trick(post(CODED + b"Content-Length: 0\r\n", CHUNK + END)),
    "an empty coding and a length": Trick(post(b"Transfer-Encoding:\r\n" + LENGTH, SMUGGLED)),
    "a coding of HTTP/1.0": Trick(post(CODED, CHUNK + END, b"1.0")),
    "a coding of HTTP/1.0 that keeps the connection": Trick(post(CODED + b"Connection: keep-alive\r\n", END, b"1.0")),
    "an unknown coding": coding(b"Transfer-Encoding: xchunked"),
    "identity": coding(b"Transfer-Encoding: identity"),
    "gzip": coding(b"Transfer-Encoding: gzip"),
    "gzip, chunked": coding(b"Transfer-Encoding: gzip, chunked"),
    "chunked, gzip": coding(b"Transfer-Encoding: chunked, gzip"),
    "chunked, identity": coding(b"Transfer-Encoding: chunked, identity"),
    "chunked, chunked": coding(b"Transfer-Encoding: chunked, chunked"),
    "a comma, chunked": coding(b"Transfer-Encoding: ,chunked"),
    "chunked, a comma": coding(b"Transfer-Encoding: chunked,"),
    "chunked twice": coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "gzip on a line of its own": coding(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
    "identity on a line after it": coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    "a coding in quotes": coding(b'Transfer-Encoding: "chunked"'),
    "a coding with a parameter": coding(b"Transfer-Encoding: chunked;q=1"),
    "a coding with a tab": coding(b"Transfer-Encoding: chunked\t"),
    "a coding with a vertical tab": coding(b"Transfer-Encoding: \x0bchunked"),
    "a coding with a null": coding(b"Transfer-Encoding: chunked\x00"),
    "a coding on a second line": coding(b"Transfer-Encoding:\r\n chunked"),
    "a coding that goes on": coding(b"Transfer-Encoding: chunked\r\n\tgzip"),
    "a coding after a bare return": coding(b"X: a\rTransfer-Encoding: chunked"),
    "a coding after a bare line feed": coding(b"X: a\nTransfer-Encoding: chunked"),
    "a space before the colon of a coding": coding(b"Transfer-Encoding : chunked"),
    "a null in the name of a coding": coding(b"Transfer-Encoding\x00: chunked"),
    "a coding with an underscore in its name": read(b"Transfer_Encoding: chunked\r\n" + LENGTH, SMUGGLED),
    # Chunks.
    "two chunks": read(CODED, b"3\r\nGET\r\n1;a=b;c\r\n \r\n" + END, b"GET "),
    "a chunk of capital digits": read(CODED, b"A\r\n0123456789\r\na\r\n0123456789\r\n" + END, 2 * b"0123456789"),
    "a chunk with zeros": read(CODED, b"0000000000000000000000000" + CHUNK + END),
    "a last chunk of three zeros": read(CODED, CHUNK + b"000\r\n\r\n"),
    "a last chunk with an extension": read(CODED, CHUNK + b"0;a=b\r\n\r\n"),
    "a chunk extension in quotes": read(CODED, b'%x;a="b"\r\n%b\r\n' % (len(SMUGGLED), SMUGGLED) + END),
    "a line end in quotes": chunks(b'1;a="\r\n0\r\n\r\n' + SMUGGLED),
    "a line feed in an extension": chunks(b"1;a\n0\r\n" + END),
    "a return in an extension": chunks(b"1;a\rb\r\n0\r\n" + END),
    "a null in an extension": chunks(b"1;a\x00\r\n0\r\n" + END),
    "a space before an extension": chunks(b"1 ;a\r\n0\r\n" + END),
    "a space after a size": chunks(b"1 \r\n0\r\n" + END),
    "a space before a size": chunks(b" 1\r\n0\r\n" + END),
    "a size with a sign": chunks(b"+1\r\n0\r\n" + END),
    "a negative size": chunks(b"-1\r\n0\r\n" + END),
    "a size with 0x": chunks(b"0x1\r\n0\r\n" + END),
    "a size with an underscore": chunks(b"0_1\r\n0\r\n" + END),
    "no size": chunks(b"\r\n0\r\n" + END),
    "an extension without a size": chunks(b";a\r\n0\r\n" + END),
    "a size of 2^64": chunks(b"10000000000000000\r\n0\r\n" + END),
    "a size of 2^64 and one": chunks(b"10000000000000001\r\n0\r\n" + END),
    "a bare line feed after a size": chunks(b"1\n0\r\n" + END),
    "a bare return after a size": chunks(b"1\r0\r\n" + END),
    "a bare line feed after a chunk": chunks(b"1\r\n0\n" + END),
    "no line end after a chunk": chunks(b"1\r\n0" + END),
    "a chunk that is too long": chunks(b"1\r\n00\r\n" + END),
    "a bare line feed after the last chunk": chunks(b"0\n\r\n" + SMUGGLED),
    "a bare line feed at the end": chunks(b"0\r\n\n" + SMUGGLED),
    # Trailers.
    "a trailer": read(CODED, CHUNK + b"0\r\nX-Trailer: 1\r\n\r\n"),
    "a trailer with a host": read(CODED, CHUNK + b"0\r\nHost: other\r\nAuthorization: Bearer token\r\n\r\n"),
    "a trailer with a length": chunks(CHUNK + b"0\r\nContent-Length: 40\r\n\r\n" + SMUGGLED),
    "a trailer with a coding": chunks(CHUNK + b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED),
    "a trailer that goes on": chunks(CHUNK + b"0\r\nX: a\r\n b\r\n\r\n"),
    "a trailer with a bare line feed": chunks(CHUNK + b"0\r\nX: a\n\r\n"),
    "a request as a trailer": chunks(CHUNK + b"0\r\n" + SMUGGLED),
    # Host and address.
    "no host": Trick(get(host=b"")),
    "two hosts": Trick(get(host=b"Host: shop\r\nHost: other\r\n")),
    "two equal hosts": Trick(get(host=HOST + HOST)),
    "an empty host": Trick(get(host=b"Host:\r\n")),
    "a list of hosts": Trick(get(host=b"Host: shop, other\r\n")),
    "a host with a user": Trick(get(host=b"Host: user@shop\r\n")),
    "a host with a path": Trick(get(host=b"Host: shop/a\r\n")),
    "a host with a space in it": Trick(get(host=b"Host: shop other\r\n")),
    "a host that goes on": Trick(get(host=b"Host: shop\r\n .other\r\n")),
    "a host that is too long": Trick(get(host=b"Host: " + 260 * b"a" + b"\r\n")),
    "a host with a word as its port": Trick(get(host=b"Host: shop:http\r\n")),
    "a space before the colon of the host": Trick(get(host=b"Host : shop\r\n")),
    "a host with a port": Trick(get(host=b"Host: shop:8000\r\n"), "GET"),
    "a host that is an address": Trick(get(host=b"Host: [::1]:8000\r\n"), "GET"),
    "HTTP/1.0 without a host": Trick(b"GET /trick HTTP/1.0\r\n\r\n", "GET", last=True),
    "HTTP/1.0 with two hosts": Trick(get(line=b"GET /trick HTTP/1.0\r\n", host=HOST + HOST)),
    "a URL": Trick(get(line=b"GET http://shop/trick HTTP/1.1\r\n"), "GET"),
    "a URL without a path": Trick(get(line=b"GET http://shop HTTP/1.1\r\n"), "GET", path="/"),
    "a URL with a query alone": Trick(get(line=b"GET http://shop?a=b HTTP/1.1\r\n"), "GET", path="/?a=b"),
    "a URL in capitals": Trick(get(line=b"GET HTTPS://SHOP/trick HTTP/1.1\r\n"), "GET"),
    "a URL without a host": Trick(get(line=b"GET http:///trick HTTP/1.1\r\n")),
    "a URL without a Host header": Trick(get(line=b"GET http://shop/trick HTTP/1.1\r\n", host=b"")),
    "a URL with a user": Trick(get(line=b"GET http://user@shop/trick HTTP/1.1\r\n")),
    "a URL of another scheme": Trick(get(line=b"GET ftp://shop/trick HTTP/1.1\r\n")),
    "a fragment": Trick(get(line=b"GET /trick#a HTTP/1.1\r\n")),
    "a fragment of a URL": Trick(get(line=b"GET http://shop/trick#a HTTP/1.1\r\n")),
    "an authority": Trick(get(line=b"GET shop:80 HTTP/1.1\r\n")),
    "an asterisk": Trick(get(line=b"GET * HTTP/1.1\r\n")),
    "an asterisk of OPTIONS": Trick(get(line=b"OPTIONS * HTTP/1.1\r\n"), "OPTIONS", path="*"),
    "two slashes": Trick(get(line=b"GET //trick HTTP/1.1\r\n"), "GET", path="//trick"),
    # Lines and names.
    "a line feed alone after each line": Trick(b"GET /trick HTTP/1.1\nHost: shop\n\n"),
    "a line feed alone after the first line": Trick(get(line=b"GET /trick HTTP/1.1\n")),
    "a line feed alone at the end": Trick(b"GET /trick HTTP/1.1\r\nHost: shop\r\n\n"),
    "a return alone after each line": Trick(b"GET /trick HTTP/1.1\rHost: shop\r\r"),
    "two returns": Trick(get(line=b"GET /trick HTTP/1.1\r\r\n")),
    "empty lines first": Trick(b"\r\n\r\n" + get(), "GET"),
    "a space first": Trick(b" " + get()),
    "tabs in the first line": Trick(get(line=b"GET\t/trick\tHTTP/1.1\r\n")),
    # RFC 9112, section 3, allows these two.
    "two spaces after the method": Trick(get(line=b"GET  /trick HTTP/1.1\r\n"), "GET"),
    "two spaces after the address": Trick(get(line=b"GET /trick  HTTP/1.1\r\n"), "GET"),
    "a space after the version": Trick(get(line=b"GET /trick HTTP/1.1 \r\n")),
    "a header before which is a space": Trick(b"GET /trick HTTP/1.1\r\n X: a\r\nHost: shop\r\n\r\n"),
    "a header that goes on": Trick(get(b"X: a\r\n b\r\n")),
    "a header without a colon": Trick(get(b"X\r\n")),
    "a header without a name": Trick(get(b": a\r\n")),
    "a null in a value": Trick(get(b"X: a\x00b\r\n")),
    "a return in a value": Trick(get(b"X: a\rb\r\n")),
    "a null in the address": Trick(get(line=b"GET /trick\x00 HTTP/1.1\r\n")),
    "HTTP/0.9": Trick(get(line=b"GET /trick HTTP/0.9\r\n")),
    "no version": Trick(b"GET /trick\r\n\r\n"),
    "HTTP/1.2": Trick(get(line=b"GET /trick HTTP/1.2\r\n")),
    "HTTP/2.0": Trick(get(line=b"GET /trick HTTP/2.0\r\n")),
    "HTTP/01.1": Trick(get(line=b"GET /trick HTTP/01.1\r\n")),
    "http/1.1": Trick(get(line=b"GET /trick http/1.1\r\n")),
    "a method in small letters": Trick(get(line=b"get /trick HTTP/1.1\r\n")),
    # Connection, Upgrade, Expect.
    "the last request": Trick(get(b"Connection: close\r\n"), "GET", last=True),
    "the last request in a list": Trick(get(b"Connection: X, CLOSE\r\n"), "GET", last=True),
    "HTTP/1.0": Trick(get(line=b"GET /trick HTTP/1.0\r\n"), "GET", last=True),
    "HTTP/1.0 that keeps the connection": Trick(
        get(b"Connection: keep-alive\r\n", b"GET /trick HTTP/1.0\r\n"), "GET", last=True
    ),
    "HTTP/1.0 with a length": Trick(post(LENGTH, SMUGGLED, b"1.0"), "POST", SMUGGLED, last=True),
    "a connection that names the length": read(b"Connection: Content-Length\r\n" + LENGTH, SMUGGLED),
    "a connection that names the coding": read(b"Connection: Transfer-Encoding\r\n" + CODED, CHUNK + END),
    "a connection that names the host": Trick(get(b"Connection: Host\r\n"), "GET"),
    "an upgrade with a length": read(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH, SMUGGLED),
    "an upgrade with chunks": read(b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + CODED, CHUNK + END),
    "an upgrade with both": Trick(post(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CODED + LENGTH, END + SMUGGLED)),
    "an upgrade without a host": Trick(get(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", host=b"")),
    "an upgrade by a trailer": read(CODED, CHUNK + b"0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    "a tunnel": Trick(b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n" + SMUGGLED),
    "an expectation": read(b"Expect: 100-continue\r\n" + LENGTH, SMUGGLED),
    "an expectation of HTTP/1.0": Trick(
        post(b"Expect: 100-continue\r\n" + LENGTH, SMUGGLED, b"1.0"), "POST", SMUGGLED, last=True
    ),
    "an expectation without a body": Trick(get(b"Expect: 100-continue\r\n"), "GET"),
    "an unknown expectation": read(b"Expect: c4nary\r\n" + LENGTH, SMUGGLED),
}


class Echo:
    """An application that answers each complete request with its line and body, and remembers it."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.headers: list[Headers] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        target = scope["path"].encode() + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        request = echo(scope["method"], target, body)
        self.requests.append(request)
        self.headers.append(list(scope["headers"]))
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(request))]}
        await send(head)
        await send({"type": "http.response.body", "body": request})


def echo(method: str, target: bytes, body: bytes) -> bytes:
    return b"<%b %b %d>" % (method.encode(), target, len(body)) + body


@pytest.fixture
async def app() -> Echo:
    return Echo()


@pytest.fixture
async def port(app: Echo) -> AsyncIterator[int]:
    async with served(app) as url:
        yield int(url.rpartition(":")[2])


async def exchange(port: int, segments: list[bytes]) -> bytes:
    """All that is answered, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(20):
            for segment in segments:
                writer.write(segment)
                # The server runs in this event loop, and reads now.
                for _ in range(2):
                    await asyncio.sleep(0)
            while data := await reader.read(65_536):
                received += data
    writer.transport.abort()
    return received


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def test_the_matrix_has_its_size() -> None:
    assert len(TRICKS) >= 140
    assert len({trick.sent for trick in TRICKS.values()}) == len(TRICKS)


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
@pytest.mark.parametrize("name", TRICKS)
async def test_a_trick_is_read_as_the_rfc_says_or_ends_its_connection(
    app: Echo, port: int, name: str, pieces: str
) -> None:
    trick = TRICKS[name]
    if name == "a length between tabs" and httptools.__version__ < "0.8":
        # Older parsers refuse what the RFC allows.
        trick = Trick(trick.sent)
    sent = trick.sent + NEXT
    if pieces == "bytes" and trick.last:
        # A client that writes to a closed connection may lose the response.
        sent = trick.sent
    segments = [sent] if pieces == "whole" else [bytes([byte]) for byte in sent]

    answers = await exchange(port, segments)

    if not trick.method:
        assert statuses(answers) == [405 if trick.sent.startswith(b"CONNECT") else 400]
        assert b"\r\nconnection: close\r\n" in answers.lower()
        assert app.requests == []
    else:
        first, following = echo(trick.method, trick.path.encode(), trick.body), echo("GET", b"/next", b"")
        assert app.requests == ([first] if trick.last else [first, following])
        answered = statuses(answers)
        if name == "an expectation" and pieces == "bytes":
            answered.remove(100)
        assert answered == [200] * len(app.requests)


async def test_two_requests_are_read_wherever_they_are_split(app: Echo, port: int) -> None:
    sent = post(LENGTH, SMUGGLED) + NEXT
    for split in range(1, len(sent)):
        app.requests.clear()
        assert statuses(await exchange(port, [sent[:split], sent[split:]])) == [200, 200], split
        assert app.requests == [echo("POST", b"/trick", SMUGGLED), echo("GET", b"/next", b"")]


@pytest.mark.parametrize("name", ["the last request", "HTTP/1.0", "HTTP/1.0 that keeps the connection"])
async def test_junk_after_the_last_request_is_skipped(app: Echo, port: int, name: str) -> None:
    answers = await exchange(port, [TRICKS[name].sent + b"c4nary\r\n\r\n"])
    assert statuses(answers) == [200]
    assert app.requests == [echo("GET", b"/trick", b"")]


class TestTheHead:
    """That the application gets."""

    async def test_has_the_host_of_the_url(self, app: Echo, port: int) -> None:
        for line in (b"GET http://shop:8000/a?b HTTP/1.1", b"GET http://shop:8000/a?b HTTP/1.0"):
            await exchange(port, [line + b"\r\nHost: other\r\nConnection: close\r\n\r\n"])
        assert app.requests == 2 * [echo("GET", b"/a?b", b"")]
        assert app.headers == 2 * [[(b"host", b"shop:8000"), (b"connection", b"close")]]

    async def test_has_no_trailers(self, app: Echo, port: int) -> None:
        await exchange(port, [TRICKS["a trailer with a host"].sent + NEXT])
        assert app.headers[0] == [(b"host", b"shop"), (b"transfer-encoding", b"chunked")]

    async def test_has_values_without_spaces_around_them(self, app: Echo, port: int) -> None:
        await exchange(port, [get(b"X: \t a  b \t\r\nY:\r\nZ: \r\n") + NEXT])
        assert app.headers[0][1:] == [(b"x", b"a  b"), (b"y", b""), (b"z", b"")]


class TestOneHundredContinue:
    """Is said only to a client that waits for it."""

    async def test_to_a_client_that_waits(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"Expect: 100-continue\r\n" + LENGTH, b""))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(SMUGGLED + NEXT)
        assert statuses(await asyncio.wait_for(reader.read(), 20)) == [200, 200]
        writer.close()

    async def test_not_to_a_client_that_has_begun(self, port: int) -> None:
        begun = post(b"Expect: 100-continue\r\n" + LENGTH, SMUGGLED[:1])
        assert statuses(await exchange(port, [begun, SMUGGLED[1:] + NEXT])) == [200, 200]

    @pytest.mark.parametrize("name", [name for name in TRICKS if "an expectation" in name])
    async def test_not_to_others(self, port: int, name: str) -> None:
        assert 100 not in statuses(await exchange(port, [TRICKS[name].sent + NEXT]))

    async def test_a_client_that_gets_another_answer_loses_its_connection(self) -> None:
        """It may send the body then, or the next request: nobody could tell."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        async with served(app) as url:
            expecting = post(b"Expect: 100-continue\r\n" + LENGTH, b"")
            answers = await exchange(int(url.rpartition(":")[2]), [expecting])
        assert statuses(answers) == [401]
        assert b"\r\nconnection: close\r\n" in answers


@pytest.mark.parametrize(
    "overhead",
    [b"1;" + 20_000 * b"a" + b"\r\n0\r\n", 1_000 * (b"1;" + 60 * b"a" + b"\r\n0\r\n"), b"0\r\n" + 20_000 * b"X: a\r\n"],
    ids=["an extension", "extensions", "trailers"],
)
async def test_what_surrounds_a_body_is_bounded(app: Echo, port: int, overhead: bytes) -> None:
    segments = [overhead[at : at + 4096] for at in range(0, len(overhead), 4096)]
    answers = await exchange(port, [post(CODED, b""), *segments])
    assert statuses(answers) == [413]
    assert app.requests == []


async def test_small_headers_are_counted_as_they_were_sent(app: Echo, port: int) -> None:
    assert statuses(await exchange(port, [get(6_000 * b"X:\r\n") + NEXT])) == [200, 200]
    assert statuses(await exchange(port, [get(7_000 * b"X:\r\n") + NEXT])) == [431]


async def test_a_body_in_many_segments_is_read(app: Echo, port: int) -> None:
    body = 60_000 * b"x"
    for headers, sent in ((b"Content-Length: 60000\r\n", body), (CODED, b"ea60\r\n" + body + b"\r\n" + END)):
        await exchange(port, [post(headers, b""), *(sent[at : at + 4096] for at in range(0, len(sent), 4096)), NEXT])
        assert app.requests.pop(0) == echo("POST", b"/trick", body)
        app.requests.clear()


async def test_a_body_of_small_chunks_is_read(app: Echo, port: int) -> None:
    body = 10_000 * b"1\r\nx\r\n" + END
    await exchange(port, [post(CODED, b""), *(body[at : at + 4096] for at in range(0, len(body), 4096)), NEXT])
    assert app.requests[0] == echo("POST", b"/trick", 10_000 * b"x")


BEHIND = {
    "nginx": ("nginx", ""),
    "nginx that streams": ("nginx", "proxy_request_buffering off;"),
    "haproxy": ("haproxy", ""),
    "haproxy that waits": ("haproxy", "option http-buffer-request"),
}


@pytest.mark.parametrize("kind", BEHIND)
async def test_behind_a_proxy_each_user_gets_their_own_response(app: Echo, port: int, kind: str) -> None:
    """Goal: whatever a proxy makes of a trick, it and the service agree where each request ends.

    Method: after each trick another user asks through the same proxy, which has one connection to the service.
    """
    used: set[str] = set()
    async with proxy(BEHIND[kind][0], port, BEHIND[kind][1]) as url:
        outside = int(url.rpartition(":")[2])
        for name, trick in TRICKS.items():
            app.requests.clear()
            async with answers_of(outside, trick.sent + NEXT) as answers:
                other = await exchange(outside, [b"GET /other HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"])
                assert other.endswith(echo("GET", b"/other", b"")), (name, answers, other)
                # What the service takes for a request, the proxy does too: it has the answers, in their order.
                seen = await eventually(partial(requests_with_answers, app, answers))
            assert len(seen) == len(set(seen)), (name, seen)
            if trick.body:
                assert not [request for request in seen if b"smuggled" in request], (name, seen)
            assert not {*statuses(answers)} & {500, 502, 503, 504}, (name, answers)
            used |= {name} if len(seen) > 1 else set()
    # Most are not refused by the proxy.
    assert len(used) > 30


@asynccontextmanager
async def answers_of(port: int, sent: bytes) -> AsyncIterator[bytearray]:
    """All that is answered until the block ends; a proxy may wait for more than what is sent."""
    answers = bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def collect() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                answers.extend(data)

    collecting = asyncio.create_task(collect())
    writer.write(sent)
    await asyncio.wait({collecting}, timeout=0.05)
    try:
        yield answers
    finally:
        writer.transport.abort()
        await collecting


async def requests_with_answers(app: Echo, answers: bytearray) -> list[bytes] | None:
    """The requests that the application got, once their answers are there; `/other` has its own."""
    seen = [request.partition(b">")[0] for request in app.requests]
    shown = [request for request in seen if not request.startswith((b"<HEAD", b"<GET /other "))]
    return seen if re.findall(rb"<\w+ \S+ \d+", answers) == shown else None
