"""HTTP before it is a request: uvicorn's protocol, with bounds of ours and our answers to what is no request."""

from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from functools import partial
from http import HTTPStatus
from math import inf
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import ShopError
from service.http import bodies
from service.http.bodies import COMPLETE
from service.http.middleware import dress, new_request_id
from service.http.responses import problem

# A request line with its headers. uvicorn and its parser would take gigabytes of them.
HEAD_LIMIT = 32 * 1024
# How long it may take to come. Else whoever sends a byte now and then holds a connection for ever.
HEAD_SECONDS = 20.0
# How long a client may leave an answer untaken, once the buffers on the way are full.
TAKE_SECONDS = 30.0
# What the system holds of a connection until it is read. Linux would let it grow to megabytes.
READ_BUFFER = 32 * 1024
# How many requests of one connection may wait behind the one being answered. uvicorn would queue them without bound.
PIPELINE_LIMIT = 16
# How much of a body that was answered already is passed over before the connection ends.
UNREAD_LIMIT = 1024 * 1024


class Flood(Exception):
    """More requests wait on one connection than PIPELINE_LIMIT."""


class Joined:
    """A transport that sends what is written in one turn of the loop by one system call, an answer's head and body."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` before the loop waits again."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def write_whole(self, answer: bytes) -> None:
        """Send an answer that is one piece already: there is nothing to wait for."""
        self._flush()
        self._send(answer)

    def close(self) -> None:
        """Send what is written, and hang up."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            self._send(b"".join(self._written))
            self._written.clear()

    def _send(self, data: bytes) -> None:
        # uvloop raises where the client has gone, which it tells in a turn of its own.
        if not self._transport.is_closing():
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """One connection."""

    _reads_head = _reads_body = False
    _head_size = _unread = 0
    # When the head that is waited for is late. One timer looks again and again, rather than one being set each time.
    _head_due = inf
    _head_timer: TimerHandle | None = None
    _take_timer: TimerHandle | None = None
    # Set once the connection is ignored, until it is closed.
    _linger_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request, but not for ever."""
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, READ_BUFFER)
        super().connection_made(cast(Any, Joined(cast(Transport, transport), self.loop)))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers, which would keep the connection in memory."""
        for timer in (self._head_timer, self._take_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Hang up on who takes no answer: it holds a place in the gate."""
        super().pause_writing()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It is taken after all."""
        super().resume_writing()
        if self._take_timer is not None:
            self._take_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse the data. Refuse invalid HTTP, and a head that is too large before it ends."""
        if self._linger_timer is not None:
            # uvicorn reads on after each answer.
            self.transport.pause_reading()
            return
        self._unset_keepalive_if_required()
        if self._reads_head:
            self._head_size += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            # The parser wraps what one of the methods below raised.
            refusal = error.__context__
            if isinstance(refusal, Flood):
                self._ignore()
            else:
                malformed = ShopError("malformed", "This is not a request in HTTP.")
                self._refuse(refusal if isinstance(refusal, ShopError) else malformed)
        else:
            if self._reads_head and self._head_size > HEAD_LIMIT:
                self._refuse(_head_too_large())
        if self._idle and self._head_due == inf:
            self._arm()

    def on_message_begin(self) -> None:
        """A head begins; of what it came with nothing is counted, as it may hold the request before too."""
        super().on_message_begin()
        self._reads_head, self._head_size = True, 0

    def on_headers_complete(self) -> None:
        """A head has ended. What is raised here, by uvicorn too where the address is none, the parser passes on."""
        self._head_size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if self._head_size > HEAD_LIMIT:
            raise _head_too_large()
        if self.parser.get_method() == b"CONNECT":
            raise ShopError("method_not_allowed", "This server opens no tunnels.")
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) == PIPELINE_LIMIT:
            raise Flood
        self._reads_head, self._head_due = False, inf
        super().on_headers_complete()
        self._reads_body, self._unread = True, 0

    def on_body(self, body: bytes) -> None:
        """A part of a body; one that was answered already is passed over, but not for ever."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > UNREAD_LIMIT:
                raise ShopError("body_too_large", "The rest of this body is not read.")

    def on_message_complete(self) -> None:
        """A request has ended, unless its body is still to be parsed."""
        if not self.parser.should_upgrade():
            self._reads_body = False
            cast(dict[str, Any], self.scope)["extensions"] = {COMPLETE: {}}
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Forget what nobody will read: the connection remembers its last request until the next."""
        if self.cycle.response_complete:
            self.cycle.body = bytearray()
        super().on_response_complete()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, and ignore every Upgrade: what follows is the body, then the next request (RFC 9110, 7.8).

        httptools makes the parser skip that body, so a new one gets the head again without the header.
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request's turn has come: the first page is answered at once, whatever else there is by the application."""
        otherwise = partial(super()._start_asgi_task, cycle, app)
        if first_page := getattr(app, "first_page", None):
            first_page.answer(cycle, otherwise)
        else:
            otherwise()

    def shutdown(self) -> None:
        """End the connection with its last answer; one that is ignored gets none."""
        if self._linger_timer is not None:
            self.transport.close()
        else:
            super().shutdown()

    def _ignore(self) -> None:
        """Drop what waits, read no more, and close the connection in a while."""
        self.pipeline.clear()
        self.transport.pause_reading()
        self._linger_timer = self.loop.call_later(bodies.LINGER_SECONDS, self.transport.close)

    def _refuse(self, error: ShopError) -> None:
        """Hang up; answer `error` first, unless the client would take that for the answer to an earlier request."""
        if not (self.cycle.response_started or self.pipeline) if self._reads_body else self._idle:
            answer = problem(error)
            answer.headers["Connection"] = "close"
            headers = dress(answer.raw_headers, new_request_id())
            status = HTTPStatus(answer.status_code)
            head = [f"HTTP/1.1 {status} {status.phrase}".encode(), *(b": ".join(header) for header in headers)]
            self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._head_due = self.loop.time() + HEAD_SECONDS
        if self._head_timer is None:
            self._look()

    def _look(self) -> None:
        self._head_timer = None
        if self.loop.time() >= self._head_due:
            self.transport.close()
        elif self._head_due < inf:
            self._head_timer = self.loop.call_at(self._head_due, self._look)


def _head_too_large() -> ShopError:
    return ShopError("headers_too_large", f"A request line and its headers hold at most {HEAD_LIMIT} bytes.")


# How the API is served, by `serve` and in the tests.
UVICORN: dict[str, Any] = {
    "http": Protocol,
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # It would believe X-Forwarded-For of whoever comes from 127.0.0.1. `clients.py` reads it, by TRUSTED_PROXIES.
    "proxy_headers": False,
}
