"""A TCP proxy on loopback that holds every byte for a while, each way: `python -m tests.bench.delay PORT TO SECONDS`.

One process with one loop, which is enough for a database that is kept waiting.
"""

import asyncio
import selectors
import sys
from typing import cast


class Pipe(asyncio.Protocol):
    """One end of a connection; what arrives here leaves at the `other` end so much later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.loop.call_later(self.seconds, self.other.send, data)

    def join(self, other: "Pipe") -> None:
        """Send from now on to `other`, and first what came before there was one."""
        self.other = other
        for data in self.early:
            self.loop.call_later(self.seconds, other.send, data)

    def send(self, data: bytes) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other and self.other.transport:
            self.loop.call_later(self.seconds, self.other.transport.close)


async def relay(port: int, to: int, seconds: float) -> None:
    """Listen on `port` and pass everything on to `to`, until cancelled."""
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()

    def accept() -> Pipe:
        near = Pipe(seconds)

        async def join() -> None:
            _, far = await loop.create_connection(lambda: Pipe(seconds), "127.0.0.1", to)
            near.join(far)
            far.join(near)

        task = loop.create_task(join())
        joining.add(task)
        task.add_done_callback(joining.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", port)
    print("ready to accept connections", flush=True)
    await server.serve_forever()


def main() -> None:
    port, to, seconds = sys.argv[1:]
    # Not the default loop, whose timers are of whole milliseconds: this one waits by the microsecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(relay(int(port), int(to), float(seconds)))


if __name__ == "__main__":
    main()
