"""A receiver of outgoing events: what other systems run, and what it got."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from tests.conftest import served


class Received(NamedTuple):
    """A request to the receiver."""

    path: str
    headers: dict[str, str]
    body: bytes
    # The other end of the connection.
    client: tuple[str, int]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads(self.body)
        return event

    @property
    def type(self) -> str:
        return str(self.event["type"])


# The status with which a request is answered.
Answer = Callable[[Received], Awaitable[int]]


class Receiver:
    """Answers events with 204, or as `answer` says; `received` has all in the order of their arrival."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.answer: Answer = self._accept
        self.headers: dict[str, str] = {}
        self.body = b""

    async def _accept(self, _: Received) -> int:
        return 204

    def fail(self, *statuses: int) -> None:
        """Answer the next requests with these statuses, and those after them with 204."""
        left = [*statuses]

        async def answer(_: Received) -> int:
            return left.pop(0) if left else 204

        self.answer = answer

    def hang(self) -> None:
        """Do not answer."""

        async def answer(_: Received) -> int:
            await asyncio.Event().wait()
            return 0

        self.answer = answer

    def types(self, path: str | None = None) -> list[str]:
        return [received.type for received in self.received if path in (None, received.path)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        received = Received(scope["path"], headers, body, scope["client"])
        self.received.append(received)
        status = await self.answer(received)
        sent = [(b"content-length", b"%d" % len(self.body))] if status != 204 else []
        sent += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": self.body if status != 204 else b""})


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a real port, until the block ends."""
    receiver = Receiver()
    async with served(receiver) as receiver.url:
        yield receiver
