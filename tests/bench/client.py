"""A customer in a hurry: HTTP over raw streams, so that the client costs little of the machine it shares."""

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

# How often it is looked up which orders are fulfilled: what that adds to a purchase's time, at most.
LOOK_SECONDS = 0.005


class Failed(Exception):
    """An answer that a purchase cannot go on with."""


@dataclass(slots=True)
class Http:
    """Connections to one server, as many as there are calls at a time."""

    url: str
    headers: str = "Content-Type: application/json"
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def call(self, method: str, path: str, expect: int, body: bytes = b"") -> bytes:
        """An answer's body. Raises Failed for another status than expected."""
        while self.free:
            reader, writer = self.free.pop()
            # A server closes a connection that was not used for a while.
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
    """Tells when orders are FULFILLED: looked up in the tables over one connection, so that no customer need poll."""

    connection: asyncpg.Connection
    waiting: dict[UUID, asyncio.Future[None]] = field(default_factory=dict)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        query = "SELECT id FROM orders WHERE id = ANY($1) AND status = 'FULFILLED'"
        while True:
            if self.waiting:
                for row in await self.connection.fetch(query, list(self.waiting)):
                    self.waiting.pop(row["id"]).set_result(None)
            await asyncio.sleep(LOOK_SECONDS)

    async def of(self, order_id: UUID) -> None:
        """Return when it is."""
        self.waiting[order_id] = future = asyncio.get_running_loop().create_future()
        await future


@dataclass(slots=True)
class Customers:
    """Whole purchases: cart, line, checkout, payment, and waiting for FULFILLED."""

    api: Http
    stripe: Http
    fulfilled: Fulfilled
    products: int
    count: int = 0

    async def place(self) -> Any:
        """A cart with a line, checked out: what that answers."""
        self.count += 1
        product = 1 + self.count * 7919 % self.products
        cart = orjson.loads(await self.api.call("POST", "/carts", 201))["id"]
        await self.api.call("POST", f"/carts/{cart}/items", 200, b'{"product_id": %d, "quantity": 1}' % product)
        return orjson.loads(await self.api.call("POST", f"/carts/{cart}/checkout", 201))

    async def purchase(self) -> None:
        placed = await self.place()
        session = placed["payment"]["stripe_session_id"]
        # The customer's browser at Stripe; the webhook is Stripe's own business.
        await self.stripe.call("POST", f"/_control/sessions/{session}/pay", 200)
        await self.fulfilled.of(UUID(placed["order_id"]))


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
    """So many at a time, each beginning anew when it has ended: the seconds of each that ended in the measured time."""
    start = time.monotonic() + warm
    end = start + seconds
    took: list[float] = []

    async def one() -> None:
        while (began := time.monotonic()) < end:
            await action()
            if start <= (now := time.monotonic()) < end:
                took.append(now - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one())
    return took


async def open_loop(action: Callable[[], Awaitable[None]], rate: float, warm: float, seconds: float) -> list[float]:
    """So many begun a second, however long each takes: the seconds of each that began in the measured time."""
    start = time.monotonic()
    took: list[float] = []

    async def one(measured: bool) -> None:
        began = time.monotonic()
        await action()
        if measured:
            took.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * (warm + seconds))):
            due = number / rate
            await asyncio.sleep(max(0.0, start + due - time.monotonic()))
            group.create_task(one(due >= warm))
    return took
