"""`python -m tests.faults.flood URL RATE CONNECTIONS SECONDS`: requests that arrive whether or not others are answered.

A process of its own on bare connections, so that it is not the client that cannot keep up. The requests come as JSON
over standard input: a list of [method, path, body]; they are sent in turn, so many a second, 0 for as many as the
connections take. What became of them goes to standard output as JSON.
"""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

ANSWER_SECONDS = 30


@dataclass
class Flooded:
    """What became of the requests: by status, 0 for no answer; `held` are those for which no connection was left."""

    sent: int = 0
    held: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    # Refused without a word about when to come again.
    abrupt: int = 0
    # By the request's place in the list: how often it was answered 2xx, and how often not at all.
    done: Counter[int] = field(default_factory=Counter)
    unsure: Counter[int] = field(default_factory=Counter)


class Wire(asyncio.Protocol):
    """A connection, with at most one request on it."""

    def __init__(self, flood: "Flood") -> None:
        self.flood = flood
        self.number: int | None = None
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def ask(self, number: int) -> None:
        self.number, self.answer = number, b""
        self.transport.write(self.flood.requests[number])

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        lowered = head.lower()
        if end and len(body) >= int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self.ended(int(head[9:12]), b"retry-after: " in lowered)
            self.flood.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.flood.open -= 1
        if self in self.flood.idle:
            self.flood.idle.remove(self)
        self.ended(0, False)

    def ended(self, status: int, retry_after: bool) -> None:
        number, self.number = self.number, None
        if number is None:
            return
        became = self.flood.became
        became.statuses[status] += 1
        became.abrupt += status in (429, 503) and not retry_after
        became.done[number] += 200 <= status < 300
        became.unsure[number] += status == 0
        self.flood.pending -= 1


class Flood:
    """The connections, and what became of what was sent over them."""

    def __init__(self, url: str, requests: list[tuple[str, str, str]], connections: int) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.most = parts.hostname, parts.port, connections
        self.requests = [
            f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            for method, path, body in requests
        ]
        self.became = Flooded()
        self.idle: list[Wire] = []
        self.open = self.pending = 0
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while (passed := loop.time() - start) < seconds:
            if rate:
                while self.became.sent + self.became.held < passed * rate:
                    self.send()
            else:
                while self.idle or self.open < self.most:
                    self.send()
            await asyncio.sleep(0.001)
        deadline = loop.time() + ANSWER_SECONDS
        while self.pending and loop.time() < deadline:  # noqa: ASYNC110 - as the loop above
            await asyncio.sleep(0.01)
        self.became.statuses[0] += self.pending

    def send(self) -> None:
        """The next request, over a connection that is free or new."""
        if not self.idle and self.open >= self.most:
            self.became.held += 1
            return
        number = self.became.sent % len(self.requests)
        self.became.sent += 1
        self.pending += 1
        if self.idle:
            self.idle.pop().ask(number)
            return
        self.open += 1
        opening = asyncio.create_task(self._open(number))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, number: int) -> None:
        try:
            _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(self), self.host, self.port)
            wire.ask(number)
        except OSError:
            self.open -= 1
            self.pending -= 1
            self.became.statuses[0] += 1


async def main() -> None:
    """Send what standard input says."""
    url, rate, connections, seconds = sys.argv[1:]
    flood = Flood(url, json.load(sys.stdin), int(connections))
    await flood.run(float(rate), float(seconds))
    json.dump(vars(flood.became), sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
