"""uvicorn's HTTP protocol, with limits for slow, large and pipelined requests, and problems for malformed ones.

uvicorn has no settings for these limits and no hook for its 400, so this subclass uses its private parts. Every name
is listed in tests/http/server/test_uvicorn.py, which fails when uvicorn renames one. pyproject.toml bounds the version.
"""

from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus
from ipaddress import IPv6Network
from math import inf
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import ShopError
from service.http.responses import problem
from service.http.server import bodies, heads
from service.http.server.bodies import COMPLETE
from service.http.server.connections import UNFINISHED_LIMIT, UNREAD_LIMIT, Bytes, Idle, max_connections
from service.http.server.heads import HEAD_LIMIT
from service.http.server.middleware import ids_of, record_request, with_standard_headers

# The time for a request line with its headers. Without it a slow client would keep a connection forever.
HEAD_SECONDS = 20.0
# The time in which a client must read a response, once the buffers on the way are full.
READ_SECONDS = 30.0
# Bytes of a connection that the kernel buffers until we read them. Linux would let this grow to megabytes.
RECEIVE_BUFFER = 32 * 1024
# Bytes of responses that the kernel buffers until the client reads them. Linux would let this grow to megabytes too.
SEND_BUFFER = 128 * 1024
# Requests of one connection that may wait while another is answered. uvicorn has no limit.
PIPELINE_LIMIT = 16
# Bytes of a body that are kept until the application reads them.
BODY_BUFFER = 8 * 1024
# Bytes of a body that are skipped after its response, before the connection is closed.
SKIP_LIMIT = 1024 * 1024
# Bytes of chunk extensions and trailers in a body, beyond those that a chunk needs for its size and its line ends.
OVERHEAD_LIMIT = 16 * 1024
CHUNK_OVERHEAD = 32


class PipelineOverflow(Exception):
    """More than PIPELINE_LIMIT requests wait on one connection."""


class AfterLast(Exception):
    """Data comes after the last request of a connection."""


class Cycle(RequestResponseCycle):
    """A request and its response, whose head and body are written by one system call.

    uvicorn takes two, and searches each header by itself. Responses that are not plain are left to uvicorn.
    """

    _start: Message | None = None

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send a part of the response; the head waits for the body."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.transport.is_closing():
            # uvloop's transport would raise. uvicorn marks the connection's latest request only.
            self.disconnected = True
        if message["type"] == "http.response.start" and not self.response_started:
            self._start = message
            if self.waiting_for_100_continue:
                # The client may send the body that it announced, or none: the next bytes would be ambiguous.
                self.keep_alive = False
            return
        if self._start is not None and not self.response_started:
            if self._write_whole(self._start, message):
                return
            await super().send(cast(Any, self._start))
        await super().send(cast(Any, message))

    def _write_whole(self, start: Message, message: Message) -> bool:
        """Write a response that consists of a head with its length, and of one body. Returns False for any other."""
        headers, body = [*self.default_headers, *start["headers"]], message.get("body", b"")
        lines = b"\r\n".join(map(b": ".join, headers))
        if (
            message.get("more_body")
            or (b"content-length", b"%d" % len(body)) not in headers
            or b"connection:" in lines.lower()
            # A line end inside a header would begin another header, or another response.
            or (lines.count(b"\r"), lines.count(b"\n")) != (len(headers) - 1, len(headers) - 1)
            or not self.keep_alive
            or self.disconnected
        ):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head = b"%b%b\r\n\r\n" % (STATUS_LINE[start["status"]], lines)
        self.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        self.message_event.set()
        self.on_response()
        return True


class Protocol(HttpToolsProtocol):
    """One connection."""

    # Of all connections of this process.
    idle = Idle()
    unfinished, unread = Bytes(UNFINISHED_LIMIT), Bytes(UNREAD_LIMIT)

    _address = ""
    _reads_head = _reads_body = False
    _head_size = _overhead = _skipped = 0
    # Whether all further data is skipped: after the last request, or a refused one.
    _is_deaf = False
    # The deadline of the next head; inf between two heads. One timer serves all heads: checking a deadline that has
    # moved costs less than a new timer for each head.
    _head_due = inf
    _head_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
    # Runs while the connection is ignored, and closes it.
    _linger_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Start the deadline for the first request, and make room if there are too many connections."""
        accepted = transport.get_extra_info("socket")
        accepted.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)
        accepted.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
        super().connection_made(cast(Any, transport))
        # `pause_writing` is called for each byte that the kernel does not take.
        self.transport.set_write_buffer_limits(high=0)
        self._address = _network(self.client[0]) if self.client else ""
        self.idle.add(self, self._address)
        if len(self.connections) > max_connections():
            # This one, if no other is idle.
            self.idle.end_oldest()
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, which would keep the connection in memory."""
        for timer in (self._head_timer, self._read_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        # uvicorn keeps it after a reset.
        self._unset_keepalive_if_required()
        self._forget()
        self.pipeline.clear()
        super().connection_lost(exc)
        # The request refers to this object: only a full garbage collection would free the two.
        self.cycle = cast(Any, None)

    def pause_writing(self) -> None:
        """Give the client READ_SECONDS to read: until then its request counts as being handled."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)
        self.unread.add(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.unread.remove(self)
        if self._read_timer is not None:
            self._read_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse the data. Refuse malformed HTTP, and a head as soon as it is too large."""
        if self._is_deaf:
            self._skipped += len(data)
            if self._skipped > SKIP_LIMIT:
                # Each time, because uvicorn resumes reading after each response.
                self.transport.pause_reading()
            return
        self._unset_keepalive_if_required()
        if self._reads_head:
            self._head_size += len(data)
        elif self._reads_body:
            self._overhead += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            # The parser wraps the errors that the methods below raise.
            refusal = error.__context__
            if isinstance(refusal, PipelineOverflow):
                self._ignore()
            elif isinstance(refusal, AfterLast):
                self._is_deaf = True
            else:
                malformed = ShopError("malformed", "This is not an HTTP request.")
                self._refuse(refusal if isinstance(refusal, ShopError) else malformed)
        else:
            if self._reads_head:
                if self._head_size > HEAD_LIMIT:
                    self._refuse(heads.too_large())
                else:
                    self.unfinished.add(self, len(data))
            elif self._reads_body and self._overhead > OVERHEAD_LIMIT:
                self._refuse(ShopError("body_too_large", "The chunk extensions and trailers are too large."))
        if self._idle and self._head_due == inf:
            self._start_deadline()

    def on_message_begin(self) -> None:
        """A head begins. The data that it came with is not counted, as it may contain the end of another request."""
        if self.cycle is not None and not self.cycle.keep_alive:
            raise AfterLast
        super().on_message_begin()
        self._reads_head, self._head_size = True, 0

    def on_headers_complete(self) -> None:
        """A head is complete. Errors raised here pass through the parser, like uvicorn's for a malformed address."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise ShopError("method_not_allowed", "This server opens no tunnels.")
        self.url = heads.check(method, self.url, version, self.headers)
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) == PIPELINE_LIMIT:
            raise PipelineOverflow
        if version == "1.0":
            self.expect_100_continue = False
        self._reads_head, self._head_due = False, inf
        self.idle.remove(self)
        self.unfinished.remove(self)
        super().on_headers_complete()
        self.cycle.__class__ = Cycle
        self._reads_body, self._overhead, self._skipped = True, 0, 0
        # The parser reports trailers as headers. Nothing of ours reads them, and they must not be taken for headers.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """A part of a body. After its response up to SKIP_LIMIT bytes are skipped."""
        self._overhead -= len(body)
        # The client did not wait.
        self.cycle.waiting_for_100_continue = False
        super().on_body(body)
        if len(self.cycle.body) > BODY_BUFFER:
            # uvicorn allows 64 KiB. The application resumes it.
            self.flow.pause_reading()
        if self.cycle.response_complete:
            self._skipped += len(body)
            if self._skipped > SKIP_LIMIT:
                raise ShopError("body_too_large", "The rest of this body was not read.")

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._overhead -= CHUNK_OVERHEAD

    def on_message_complete(self) -> None:
        """A request is complete. For an upgrade the parser calls this before the body."""
        if not self.parser.should_upgrade():
            self._reads_body = False
            self.cycle.waiting_for_100_continue = False
            cast(dict[str, Any], self.scope)["extensions"] = {COMPLETE: {}}
            super().on_message_complete()
            if self.cycle.response_complete:
                self._drop_request()

    def on_response_complete(self) -> None:
        """Drop the request, and count the connection as idle, unless another request waits."""
        super().on_response_complete()
        if self.cycle is not None and self.cycle.response_complete:
            if self._reads_body:
                self.cycle.body = bytearray()
            elif self.cycle.keep_alive:
                self._drop_request()
            if not self.transport.is_closing():
                self.idle.add(self, self._address)

    def _drop_request(self) -> None:
        """Drop the last request: uvicorn would keep it, a third of the connection's memory, until the next one."""
        self.cycle = cast(Any, None)
        if not self._reads_head:
            self.scope = self.headers = cast(Any, None)

    def _parse(self, data: bytes) -> None:
        """Feed the parser, and ignore Upgrade headers, as RFC 9110, 7.8 allows: the body and the next request follow.

        httptools would skip the body, so a new parser gets the head again without that header.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
                headers = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
                data = b"\r\n".join([line, *headers, b"", data[upgrade.args[0] :]])
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def end(self) -> None:
        """Close the connection now, because others need its place."""
        self._forget()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection after its last response; at once if it is ignored."""
        if self._linger_timer is not None:
            self.transport.close()
        else:
            super().shutdown()

    def _ignore(self) -> None:
        """Drop the waiting requests, stop reading, and close the connection after LINGER_SECONDS."""
        self.pipeline.clear()
        self.transport.pause_reading()
        self._linger()
        self._skipped = SKIP_LIMIT

    def _linger(self) -> None:
        """Skip what arrives, and close the connection after LINGER_SECONDS."""
        self._is_deaf, self._skipped = True, 0
        self._linger_timer = self.loop.call_later(bodies.LINGER_SECONDS, self.transport.close)

    def _refuse(self, error: ShopError) -> None:
        """End the connection; first respond, unless the client could take that for an earlier request's response."""
        if not (self.cycle.response_started or self.pipeline) if self._reads_body else self._idle:
            answer = problem(error)
            answer.headers["Connection"] = "close"
            headers = with_standard_headers(answer.raw_headers, ids_of(())[0])
            status = HTTPStatus(answer.status_code)
            head = [f"HTTP/1.1 {status} {status.phrase}".encode(), *(b": ".join(header) for header in headers)]
            self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
            record_request("unknown", "unknown", answer.status_code, 0)
            # To close at once would reset the connection of a client that still sends, and it would lose the response.
            self.transport.write_eof()
            self._linger()
        else:
            self.transport.close()

    def _forget(self) -> None:
        """Give up its places."""
        for places in (self.idle, self.unfinished, self.unread):
            places.remove(self)

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _start_deadline(self) -> None:
        self._head_due = self.loop.time() + HEAD_SECONDS
        if self._head_timer is None:
            self._check_deadline()

    def _check_deadline(self) -> None:
        self._head_timer = None
        if self.loop.time() >= self._head_due:
            self.transport.close()
        elif self._head_due < inf:
            self._head_timer = self.loop.call_at(self._head_due, self._check_deadline)


def _network(address: str) -> str:
    """What stands for a client: its IPv4 address, or the /64 of its IPv6 address."""
    return str(IPv6Network((address.partition("%")[0], 64), strict=False)) if ":" in address else address


# uvicorn's options, for `serve` and the tests.
UVICORN: dict[str, Any] = {
    "http": Protocol,
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # uvicorn would believe the X-Forwarded-For of every local client. We read it by TRUSTED_PROXIES.
    "proxy_headers": False,
}
