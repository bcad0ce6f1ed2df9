"""A TCP proxy that reads what passes, so that a fault can be placed at a named point.

In front of PostgreSQL a point is a statement by its file's name, `BEGIN`, `COMMIT` or `ROLLBACK`; in front of Stripe it
is a call, `POST /v1/checkout/sessions`. "before" the point, the request has not been passed on. "after" it, the answer
has arrived and has not been passed back.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

When = Literal["before", "after"]
Names = Callable[[asyncio.StreamReader], AsyncIterator[tuple[bytes, str | None]]]

# Protocol 3.0; other codes ask for TLS or a cancel.
STARTUP = 196608
COMMENT = re.compile(rb"/\*action='(\w+/\w+)'\*/")


async def statements(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, str | None]]:
    """A PostgreSQL client's messages, with the name of the statement that one executes."""
    code, prepared = 0, {}
    while code != STARTUP:
        size = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(size) - 4)
        code = int.from_bytes(body[:4])
        yield size + body, None
    while True:
        head = await reader.readexactly(5)
        body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
        kind, name = head[:1], None
        # Parse has a prepared statement's name, then its text. Bind has the portal's, then the statement's name.
        if kind == b"P":
            prepared_name, _, text = body.partition(b"\0")
            prepared[prepared_name] = COMMENT.search(text)
        elif kind == b"B":
            match = prepared.get(body.split(b"\0", 2)[1])
            name = match[1].decode() if match else None
        elif kind == b"Q":
            name = body.rstrip(b"\0; ").decode()
        yield head + body, name


async def calls(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, str | None]]:
    """An HTTP client's bytes, with the method and path where a request begins."""
    while data := await reader.read(65536):
        match = re.match(rb"([A-Z]+) (/[^ ?]*)", data)
        yield data, re.sub(r"cs_\w+", "{id}", b" ".join(match.groups()).decode()) if match else None


async def anything(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, str | None]]:
    """A client's bytes, without names."""
    while data := await reader.read(65536):
        yield data, None


@dataclass(eq=False)
class Trap:
    """Cuts the connection that passes a point for the `nth` time from now, and does `then`; sets `sprung` after it."""

    name: str
    when: When
    nth: int = 1
    then: Callable[[], object] = lambda: None
    sprung: asyncio.Event = field(default_factory=asyncio.Event)

    def meets(self, name: str | None) -> bool:
        self.nth -= name == self.name
        return name == self.name and self.nth == 0


@dataclass(eq=False)
class Link:
    """A client's connection and ours to the server, with the trap that the next answer springs."""

    writers: list[asyncio.StreamWriter]
    answer_trap: Trap | None = None

    def cut(self) -> None:
        """Reset both connections."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of `host` and connects to the port `to` of 127.0.0.1, which can be changed for new connections.

    `passed` lists the points that were passed, `accepted` counts the connections.
    """

    def __init__(self, port: int, names: Names, *, host: str = "127.0.0.1", listen: int = 0) -> None:
        self.to = port
        self._address = host, listen
        self._names = names
        self.passed: list[str] = []
        self.links: set[Link] = set()
        self.accepted = 0
        self._serving: set[asyncio.Task[None]] = set()
        self.trap: Trap | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, *self._address)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in list(self.links):
            link.cut()
        await asyncio.gather(*self._serving)

    def set(self, name: str, when: When, nth: int = 1, then: Callable[[], object] = lambda: None) -> Trap:
        """Set a trap at this point; there is one at a time."""
        self.trap = Trap(name, when, nth, then)
        return self.trap

    def cut_one(self) -> None:
        """Cut a random connection."""
        random.choice(list(self.links)).cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link, task = Link([writer]), asyncio.current_task()
        assert task is not None
        self.links.add(link)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.to)
            link.writers.append(server)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward_requests(link, reader, server))
                directions.create_task(self._forward_answers(link, answers, writer))
        except* (OSError, EOFError):
            pass
        finally:
            link.cut()
            self.links.discard(link)

    async def _forward_requests(self, link: Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        async for data, name in self._names(reader):
            if name is not None:
                self.passed.append(name)
            if self.trap is not None and self.trap.meets(name):
                trap, self.trap = self.trap, None
                if trap.when == "before":
                    self._spring(link, trap)
                link.answer_trap = trap
            server.write(data)
            await server.drain()
        raise EOFError

    async def _forward_answers(self, link: Link, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if link.answer_trap is not None:
                self._spring(link, link.answer_trap)
            client.write(data)
            await client.drain()
        raise EOFError

    def _spring(self, link: Link, trap: Trap) -> None:
        with suppress(ProcessLookupError):
            trap.then()
        link.cut()
        trap.sprung.set()
        raise ConnectionAbortedError
