"""`python -m tests.faults.attack URL NAME SECONDS`: one kind of flood, or `all`, from 127.0.0.2, in a separate process.

It prints the number of connections that it opened.
"""

import asyncio
import random
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import uvloop

ADDRESS = ("127.0.0.2", 0)
GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
MEGABYTE = 1024 * 1024
# Connections a second. More would measure how fast Python accepts and opens them, on the cores of this machine.
MAX_OPENED = 1000


class Attack:
    """A flood that ends after `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), int(address.port or 80)
        self.end = time.monotonic() + seconds
        self.connections = 0
        self._next_opening = 0.0

    @property
    def running(self) -> bool:
        return time.monotonic() < self.end

    async def repeat(self, use: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        """Open and use one connection after another; all together open MAX_OPENED a second."""
        while self.running:
            now = time.monotonic()
            self._next_opening = max(now, self._next_opening + 1 / MAX_OPENED)
            await asyncio.sleep(self._next_opening - now)
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port, local_addr=ADDRESS)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            self.connections += 1
            with suppress(OSError, TimeoutError, RuntimeError, asyncio.IncompleteReadError):
                async with asyncio.timeout(max(0.0, self.end - time.monotonic())):
                    await use(reader, writer)
            writer.transport.abort()

    async def pipeline(self, connections: int, bytes_per_second: float = 0) -> None:
        """Endless requests whose answers are not read; without a pace, as fast as the server takes them."""
        size = int(bytes_per_second * 0.01) // len(GET) if bytes_per_second else 65_536 // len(GET)

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while not reader.at_eof():
                writer.write(size * GET)
                await writer.drain()
                await asyncio.sleep(0.01 if bytes_per_second else 0)
                reader._buffer.clear()  # type: ignore[attr-defined]

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def silent(self, connections: int) -> None:
        """Bodies that are announced and never sent; a closed connection is opened again about five seconds later."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(POST % (b"/carts", 2, b""))
            await reader.read()
            await asyncio.sleep(random.uniform(3, 7))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def part_bodies(self, connections: int) -> None:
        """Bodies of which the last third is never sent."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(POST % (b"/carts", 60_000, b"") + 40_000 * b"x")
            await reader.read()
            await asyncio.sleep(random.uniform(3, 7))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def idle(self, connections: int) -> None:
        """Connections that send one request, and then nothing."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(LIVE)
            await reader.read()
            await asyncio.sleep(random.uniform(3, 7))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def heads(self, connections: int) -> None:
        """Heads of which most arrives at once, and then a byte a second."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(LIVE[:-2] + b"X: " + 16_000 * b"a")
            closed = asyncio.ensure_future(reader.read())
            while not closed.done():
                writer.write(b"a")
                await asyncio.wait({closed}, timeout=1)
            with suppress(OSError):
                await closed
            await asyncio.sleep(random.uniform(3, 7))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def resets(self, connections: int) -> None:
        """Connections that send a request, and end by a reset some seconds later."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(LIVE)
            await reader.readuntil(b"}")
            await asyncio.sleep(random.uniform(4, 10))
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def unread(self, connections: int) -> None:
        """Responses of several megabytes that are never read."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(10 * LIVE.replace(b"/health/live", b"/openapi.json"))
            await asyncio.sleep(random.uniform(3, 7))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def malformed(self, connections: int) -> None:
        """Requests that are refused by the parser, about five a second from each connection."""

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"c4nary\r\n\r\n")
            await reader.read()
            await asyncio.sleep(random.uniform(0.1, 0.3))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))

    async def webhooks(self, connections: int) -> None:
        """Bodies of a megabyte with forged signatures: all at the same time, then each again after some seconds."""
        body = MEGABYTE * b"x"

        async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            signature = b"Stripe-Signature: t=%d,v1=%b\r\n" % (time.time(), 64 * b"0")
            writer.write(POST % (b"/webhooks/stripe", MEGABYTE, signature))
            writer.write(body)
            await reader.readuntil(b"}")
            await asyncio.sleep(random.uniform(1, 5))

        await asyncio.gather(*(self.repeat(use) for _ in range(connections)))


FLOODS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "pipelined at 0.6 MB/s": lambda attack: attack.pipeline(1, 600_000),
    "pipelined as fast as it goes": lambda attack: attack.pipeline(4),
    "1,024 bodies that do not come": lambda attack: attack.silent(1024),
    "1,024 bodies that come in part": lambda attack: attack.part_bodies(1024),
    "600 webhooks of 1 MiB at once": lambda attack: attack.webhooks(600),
    "5,000 idle connections": lambda attack: attack.idle(5000),
    "1,024 slow heads of 16 kB": lambda attack: attack.heads(1024),
    "5,000 connections, reset again and again": lambda attack: attack.resets(5000),
    "500 clients that do not read": lambda attack: attack.unread(500),
    "500 malformed requests a second": lambda attack: attack.malformed(100),
}


async def main() -> None:
    """Run the flood that the arguments name."""
    url, name, seconds = sys.argv[1:]
    attack = Attack(url, float(seconds))
    await asyncio.gather(*(flood(attack) for kind, flood in FLOODS.items() if name in (kind, "all")))
    print(attack.connections)


if __name__ == "__main__":
    uvloop.run(main())
