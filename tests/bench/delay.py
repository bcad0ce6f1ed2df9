"""`python -m tests.bench.delay PORT TO SECONDS`: a TCP proxy on loopback that delays every byte in both directions.

One process with one event loop, which is fast enough for a delayed database.
"""

import asyncio
import selectors
import sys
from typing import cast


class Pipe(asyncio.Protocol):
    """One end of a connection; data that arrives here leaves at the `other` end `seconds` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None
        self.buffered: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.buffered.append(data)
        else:
            self.loop.call_later(self.seconds, self.other.send, data)

    def join(self, other: "Pipe") -> None:
        """Send everything to `other` from now on, beginning with the data that has already arrived."""
        self.other = other
        for data in self.buffered:
            self.loop.call_later(self.seconds, other.send, data)

    def send(self, data: bytes) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other and self.other.transport:
            self.loop.call_later(self.seconds, self.other.transport.close)


async def relay(port: int, to: int, seconds: float) -> None:
    """Listen on `port` and relay every connection to the port `to`, until cancelled."""
    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[None]] = set()

    def accept() -> Pipe:
        client = Pipe(seconds)

        async def connect() -> None:
            _, server = await loop.create_connection(lambda: Pipe(seconds), "127.0.0.1", to)
            client.join(server)
            server.join(client)

        task = loop.create_task(connect())
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return client

    server = await loop.create_server(accept, "127.0.0.1", port)
    print("ready to accept connections", flush=True)
    await server.serve_forever()


def main() -> None:
    port, to, seconds = sys.argv[1:]
    # The default loop's timers have a resolution of a millisecond, this one's of a microsecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(relay(int(port), int(to), float(seconds)))


if __name__ == "__main__":
    main()
