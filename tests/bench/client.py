"""Customers over raw streams: a client that uses little of the machine that it shares with the servers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from tests.bench.stage import Shop

# The interval of checks for fulfilled orders, which is the most that they add to a purchase's time.
CHECK_SECONDS = 0.005


class Failed(Exception):
    """An answer with an unexpected status."""


@dataclass(slots=True)
class Http:
    """Connections to one server, as many as there are concurrent calls."""

    url: str
    headers: str = "Content-Type: application/json"
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def call(self, method: str, path: str, expect: int, body: bytes = b"") -> bytes:
        """An answer's body. Raises Failed for another status than expected."""
        while self.free:
            reader, writer = self.free.pop()
            # A server closes a connection that is idle for long.
            if not reader.at_eof():
                break
            writer.close()
        else:
            host, port = self.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\nContent-Length: %d\r\n\r\n%s"
            % (method.encode(), path.encode(), self.headers.encode(), len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        status = int(head[9:12])
        if status != expect:
            writer.close()
            raise Failed(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        self.free.append((reader, writer))
        return answer

    def close(self) -> None:
        while self.free:
            self.free.pop()[1].close()


@dataclass(slots=True)
class Fulfilled:
    """Waits for orders to be FULFILLED: one connection checks the tables for all customers."""

    connection: asyncpg.Connection
    waiting: dict[UUID, asyncio.Future[None]] = field(default_factory=dict)

    async def watch(self) -> None:
        """Check repeatedly, until cancelled."""
        query = "SELECT id FROM orders WHERE id = ANY($1) AND status = 'FULFILLED'"
        while True:
            if self.waiting:
                for row in await self.connection.fetch(query, list(self.waiting)):
                    self.waiting.pop(row["id"]).set_result(None)
            await asyncio.sleep(CHECK_SECONDS)

    async def wait_for(self, order_id: UUID) -> None:
        """Return when the order is fulfilled."""
        self.waiting[order_id] = future = asyncio.get_running_loop().create_future()
        await future


@dataclass(slots=True)
class Customers:
    """Whole purchases: cart, line, checkout, payment, and the wait for FULFILLED."""

    api: Http
    stripe: Http
    fulfilled: Fulfilled
    products: int
    lines: int = 1
    count: int = 0

    async def place(self) -> Any:
        """Create a cart, fill it and check it out; the checkout's answer."""
        self.count += 1
        cart = orjson.loads(await self.api.call("POST", "/carts", 201))["id"]
        for line in range(self.lines):
            product = 1 + (self.count * 7919 + line * 104_729) % self.products
            await self.api.call("POST", f"/carts/{cart}/items", 200, b'{"product_id": %d, "quantity": 1}' % product)
        return orjson.loads(await self.api.call("POST", f"/carts/{cart}/checkout", 201))

    async def purchase(self) -> None:
        placed_order = await self.place()
        session = placed_order["payment"]["stripe_session_id"]
        # The customer pays on Stripe's page; Stripe sends the webhook.
        await self.stripe.call("POST", f"/_control/sessions/{session}/pay", 200)
        await self.fulfilled.wait_for(UUID(placed_order["order_id"]))


async def with_customers(
    shop: Shop, database_url: str, products: int, work: Callable[[Customers], Awaitable[list[float]]]
) -> list[float]:
    """Run `work` with customers of this shop."""
    connection = await asyncpg.connect(database_url)
    fulfilled = Fulfilled(connection)
    watching = asyncio.create_task(fulfilled.watch())
    customers = Customers(Http(shop.api.url), Http(shop.stripe.url), fulfilled, products)
    try:
        return await work(customers)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await connection.close()
        customers.api.close()
        customers.stripe.close()


async def closed_loop(
    action: Callable[[], Awaitable[object]], at_once: int, warm: float, seconds: float
) -> list[float]:
    """Repeat an action `at_once` times in parallel; the seconds of each run that ended in the measured time."""
    start = time.monotonic() + warm
    end = start + seconds
    durations: list[float] = []

    async def run_once() -> None:
        while (begun_at := time.monotonic()) < end:
            await action()
            if start <= (now := time.monotonic()) < end:
                durations.append(now - begun_at)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(run_once())
    return durations


async def open_loop(action: Callable[[], Awaitable[None]], rate: float, warm: float, seconds: float) -> list[float]:
    """Begin an action `rate` times a second; the seconds of each run that began in the measured time."""
    start = time.monotonic()
    durations: list[float] = []

    async def run_once(measured: bool) -> None:
        begun_at = time.monotonic()
        await action()
        if measured:
            durations.append(time.monotonic() - begun_at)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * (warm + seconds))):
            due = number / rate
            await asyncio.sleep(max(0.0, start + due - time.monotonic()))
            group.create_task(run_once(due >= warm))
    return durations
