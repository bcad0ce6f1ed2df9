"""`python -m tests.faults.attack URL NAME SECONDS`: one kind of flood from 127.0.0.2, in a separate process.

It prints the number of connections that it opened.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import uvloop

ADDRESS = ("127.0.0.2", 0)
GET = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
MEGABYTE = 1024 * 1024


class Attack:
    """A flood that ends after `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), int(address.port or 80)
        self.end = time.monotonic() + seconds
        self.connections = 0

    @property
    def running(self) -> bool:
        return time.monotonic() < self.end

    async def repeat(self, use: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        """Open and use one connection after another."""
        while self.running:
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
    "600 webhooks of 1 MiB at once": lambda attack: attack.webhooks(600),
}


async def main() -> None:
    """Run the flood that the arguments name."""
    url, name, seconds = sys.argv[1:]
    attack = Attack(url, float(seconds))
    await FLOODS[name](attack)
    print(attack.connections)


if __name__ == "__main__":
    uvloop.run(main())
