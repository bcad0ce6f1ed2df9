"""`python -m tests.faults.flood URL RATE CONNECTIONS SECONDS`: requests at a fixed rate, answered or not.

A separate process with plain connections, so that the client is never the bottleneck. Standard input has the requests
as JSON: a list of [method, path, body], which are sent in turn. RATE is requests a second; 0 means as many as the
connections take. The results go to standard output as JSON.
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
class Results:
    """Counts of requests; a status of 0 stands for no answer."""

    sent: int = 0
    # Not sent, as no connection was free.
    without_connection: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refused_without_retry_after: int = 0
    # By the request's position in the list.
    succeeded: Counter[int] = field(default_factory=Counter)
    unanswered: Counter[int] = field(default_factory=Counter)


class Wire(asyncio.Protocol):
    """A connection with at most one request at a time."""

    def __init__(self, flood: "Flood") -> None:
        self.flood = flood
        self.number: int | None = None
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, number: int) -> None:
        self.number, self.answer = number, b""
        self.transport.write(self.flood.requests[number])

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        lowered = head.lower()
        if end and len(body) >= int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self.end_request(int(head[9:12]), b"retry-after: " in lowered)
            self.flood.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.flood.open -= 1
        if self in self.flood.idle:
            self.flood.idle.remove(self)
        self.end_request(0, False)

    def end_request(self, status: int, retry_after: bool) -> None:
        number, self.number = self.number, None
        if number is None:
            return
        results = self.flood.results
        results.statuses[status] += 1
        results.refused_without_retry_after += status in (429, 503) and not retry_after
        results.succeeded[number] += 200 <= status < 300
        results.unanswered[number] += status == 0
        self.flood.pending -= 1


class Flood:
    """The connections, and the results of the requests sent over them."""

    def __init__(self, url: str, requests: list[tuple[str, str, str]], connections: int) -> None:
        address = urlsplit(url)
        self.host, self.port, self.max_connections = address.hostname, address.port, connections
        self.requests = [
            f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            for method, path, body in requests
        ]
        self.results = Results()
        self.idle: list[Wire] = []
        self.open = self.pending = 0
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while (elapsed := loop.time() - start) < seconds:
            if rate:
                while self.results.sent + self.results.without_connection < elapsed * rate:
                    self.send()
            else:
                while self.idle or self.open < self.max_connections:
                    self.send()
            await asyncio.sleep(0.001)
        deadline = loop.time() + ANSWER_SECONDS
        while self.pending and loop.time() < deadline:  # noqa: ASYNC110 - polls like the loop above
            await asyncio.sleep(0.01)
        self.results.statuses[0] += self.pending

    def send(self) -> None:
        """Send the next request over an idle or new connection."""
        if not self.idle and self.open >= self.max_connections:
            self.results.without_connection += 1
            return
        number = self.results.sent % len(self.requests)
        self.results.sent += 1
        self.pending += 1
        if self.idle:
            self.idle.pop().send(number)
            return
        self.open += 1
        opening = asyncio.create_task(self._open(number))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, number: int) -> None:
        try:
            _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(self), self.host, self.port)
            wire.send(number)
        except OSError:
            self.open -= 1
            self.pending -= 1
            self.results.statuses[0] += 1


async def main() -> None:
    """Send the requests of standard input."""
    url, rate, connections, seconds = sys.argv[1:]
    flood = Flood(url, json.load(sys.stdin), int(connections))
    await flood.run(float(rate), float(seconds))
    json.dump(vars(flood.results), sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
