"""Responses are the same bytes as uvicorn's; a plain one is written at once."""

import asyncio
import logging
from typing import Any, NamedTuple

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.server.protocol import Cycle

LENGTH = (b"content-length", b"4")


class Transport:
    """Collects what is written, and raises as uvloop's does."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "the handler is closed"
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        """Needed by uvicorn's flow control."""


class Response(NamedTuple):
    """What a response wrote, whether its connection was closed, and how often its end was reported."""

    writes: list[bytes]
    closed: bool
    ends: int


def make_cycle(
    kind: type[RequestResponseCycle], transport: Any, ended: list[None], method: str = "GET", keep_alive: bool = True
) -> RequestResponseCycle:
    scope: Any = {"type": "http", "method": method, "path": "/"}
    return kind(
        scope,
        transport,
        FlowControl(transport),
        logger=logging.getLogger("uvicorn.error"),
        access_logger=logging.getLogger("uvicorn.access"),
        access_log=False,
        default_headers=[(b"date", b"Sat, 28 Nov 2026 06:36:51 GMT")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: ended.append(None),
    )


async def respond(kind: type[RequestResponseCycle], app: ASGIApp, method: str, keep_alive: bool = True) -> Response:
    transport, ended = Transport(), list[None]()
    cycle = make_cycle(kind, transport, ended, method, keep_alive)
    await cycle.run_asgi(app)  # type: ignore[arg-type]
    return Response(transport.writes, transport.closed, len(ended))


def sends(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes = b"body", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


RESPONSES = {
    "plain": sends(start(LENGTH, (b"etag", b'"1"')), body()),
    "an error": sends(start(LENGTH, status=409), body()),
    "no body": sends(start(status=204), body(b"")),
    "not modified": sends(start((b"etag", b'"1"'), status=304), body(b"")),
    "in parts": sends(start(LENGTH), body(b"bo", more=True), body(b"dy")),
    "whole, then an empty part": sends(start(LENGTH), body(more=True), body(b"")),
    "without a length": sends(start(), body()),
    "closes": sends(start(LENGTH, (b"Connection", b"close")), body()),
    "too short": sends(start(LENGTH), body(b"bod")),
    "too long": sends(start(LENGTH), body(b"bodies")),
    "a line end in a header": sends(start(LENGTH, (b"location", b"/\r\nset-cookie: a=1")), body()),
    "a bare line feed in a header": sends(start(LENGTH, (b"location", b"/\nset-cookie: a=1")), body()),
    "a bare carriage return in a header": sends(start(LENGTH, (b"location", b"/\rset-cookie: a=1")), body()),
    "a body twice": sends(start(LENGTH), body(), body()),
    "a head twice": sends(start(LENGTH), body(), start(LENGTH)),
    "nothing": sends(),
}


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_is_the_same_as_uvicorns(name: str, method: str, keep_alive: bool) -> None:
    theirs = await respond(RequestResponseCycle, RESPONSES[name], method, keep_alive)

    ours = await respond(Cycle, RESPONSES[name], method, keep_alive)

    assert b"".join(ours.writes) == b"".join(theirs.writes)
    assert (ours.closed, ours.ends) == (theirs.closed, theirs.ends)


async def test_a_plain_response_is_written_at_once() -> None:
    response = await respond(Cycle, RESPONSES["plain"], "GET")

    assert [write[-8:] for write in response.writes] == [b"\r\n\r\nbody"]


async def test_an_application_that_fails_before_the_body_answers_500() -> None:
    """uvicorn has sent the head by then, and can only close the connection."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(LENGTH))
        raise RuntimeError

    response = await respond(Cycle, fails, "GET")

    assert response.writes[0].startswith(b"HTTP/1.1 500 ")


async def test_nothing_is_written_to_a_closed_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(LENGTH))
        send.__self__.transport.close()  # type: ignore[attr-defined]
        await send(body())

    response = await respond(Cycle, app, "GET")

    assert response == Response([], True, 0)
    assert not caplog.records


async def test_a_response_waits_for_a_client_that_does_not_read() -> None:
    transport = Transport()
    cycle = make_cycle(Cycle, transport, [])
    cycle.flow.pause_writing()

    responding = asyncio.create_task(cycle.run_asgi(RESPONSES["plain"]))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    paused = list(transport.writes)
    cycle.flow.resume_writing()
    await responding

    assert paused == []
    assert b"".join(transport.writes).endswith(b"\r\n\r\nbody")


async def test_no_body_is_asked_for_after_the_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await RESPONSES["plain"](scope, receive, send)
        assert await receive() == {"type": "http.disconnect"}

    response = await respond(Cycle, app, "GET")

    assert len(response.writes) == 1
