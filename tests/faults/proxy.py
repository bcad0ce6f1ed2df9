"""A TCP proxy that knows what passes, so that a fault can strike at a named point.

Before PostgreSQL a point is a statement by its file's name, `BEGIN`, `COMMIT` or `ROLLBACK`; before Stripe it is a
call, `POST /v1/checkout/sessions`. "before" is when it has not been passed on; "after" when it was, and its answer is
here but has not been passed back.
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

STARTUP = 196608  # protocol 3.0; other codes ask for TLS, or cancel
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
        if kind == b"P":  # Parse: a statement's own name, then its text
            own, _, text = body.partition(b"\0")
            prepared[own] = COMMENT.search(text)
        elif kind == b"B":  # Bind: the portal, then the statement
            found = prepared.get(body.split(b"\0", 2)[1])
            name = found[1].decode() if found else None
        elif kind == b"Q":
            name = body.rstrip(b"\0; ").decode()
        yield head + body, name


async def calls(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, str | None]]:
    """An HTTP client's bytes, with the method and path where a request begins."""
    while data := await reader.read(65536):
        found = re.match(rb"([A-Z]+) (/[^ ?]*)", data)
        yield data, re.sub(r"cs_\w+", "{id}", b" ".join(found.groups()).decode()) if found else None


async def anything(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, str | None]]:
    """A client's bytes, whatever they mean."""
    while data := await reader.read(65536):
        yield data, None


@dataclass(eq=False)
class Trap:
    """What is to happen when a point is passed for the `nth` time from now; `sprung` once it has."""

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
    """A client's connection and ours to the server; `holding` the trap that the next answer springs."""

    writers: list[asyncio.StreamWriter]
    holding: Trap | None = None

    def cut(self) -> None:
        """Drop both ends at once, with a reset and without a goodbye."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of 127.0.0.1 before the server at `to`, which can be changed for new connections.

    `seen` is what has passed, `accepted` how many connections have come.
    """

    def __init__(self, port: int, names: Names) -> None:
        self.to = port
        self._names = names
        self.seen: list[str] = []
        self.links: set[Link] = set()
        self.accepted = 0
        self._serving: set[asyncio.Task[None]] = set()
        self.trap: Trap | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in list(self.links):
            link.cut()
        await asyncio.gather(*self._serving)

    def set(self, name: str, when: When, nth: int = 1, then: Callable[[], object] = lambda: None) -> Trap:
        """Cut the connection that passes this point, and do `then` as well."""
        self.trap = Trap(name, when, nth, then)
        return self.trap

    def cut_one(self) -> None:
        """Cut a connection, whatever it is at."""
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
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(link, reader, server))
                both.create_task(self._answer(link, answers, writer))
        except* (OSError, EOFError):
            pass
        finally:
            link.cut()
            self.links.discard(link)

    async def _ask(self, link: Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        async for data, name in self._names(reader):
            if name is not None:
                self.seen.append(name)
            if self.trap is not None and self.trap.meets(name):
                trap, self.trap = self.trap, None
                if trap.when == "before":
                    self._spring(link, trap)
                link.holding = trap
            server.write(data)
            await server.drain()
        raise EOFError

    async def _answer(self, link: Link, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if link.holding is not None:
                self._spring(link, link.holding)
            client.write(data)
            await client.drain()
        raise EOFError

    def _spring(self, link: Link, trap: Trap) -> None:
        with suppress(ProcessLookupError):
            trap.then()
        link.cut()
        trap.sprung.set()
        raise ConnectionAbortedError
