"""HTTP before it is a request: uvicorn's protocol, with bounds of ours and our answers to what is no request."""

from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import ShopError
from service.http.middleware import dress, new_request_id
from service.http.responses import problem

# A request line with its headers. uvicorn and its parser would take gigabytes of them.
HEAD_LIMIT = 32 * 1024
# How long it may take to come. Else whoever sends a byte now and then holds a connection for ever.
HEAD_SECONDS = 20.0
# How long a client may leave an answer untaken, once the buffers on the way are full.
TAKE_SECONDS = 30.0


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

    _reads_head = False
    _head_size = 0
    # When the head that is waited for is late. One timer looks again and again, rather than one being set each time.
    _head_due = inf
    _head_timer: TimerHandle | None = None
    _take_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request, but not for ever."""
        super().connection_made(cast(Any, Joined(cast(Transport, transport), self.loop)))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers, which would keep the connection in memory."""
        for timer in (self._head_timer, self._take_timer):
            if timer is not None:
                timer.cancel()
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
        """Feed the parser; answer 431 when a head that is still to end is too large already."""
        if self._reads_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._reads_head and self._head_size > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("")
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
            raise ValueError
        self._reads_head, self._head_due = False, inf
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request's turn has come: the first page is answered at once, whatever else there is by the application."""
        otherwise = partial(super()._start_asgi_task, cycle, app)
        if first_page := getattr(app, "first_page", None):
            first_page.answer(cycle, otherwise)
        else:
            otherwise()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or too large a one, and hang up."""
        if self._head_size > HEAD_LIMIT:
            error = ShopError("headers_too_large", f"A request line and its headers hold at most {HEAD_LIMIT} bytes.")
        else:
            error = ShopError("malformed", "This is not a request in HTTP.")
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
