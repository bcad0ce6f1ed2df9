"""A client of the service for tests, and `eventually`, which waits for what it shows."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, TypeVar

import httpx
import orjson

T = TypeVar("T")

# The fewest characters that are allowed.
ADMIN_TOKEN = "token-of-the-staff-in-the-tests-"
# For clients that speak no TLS: loading the system's certificates takes each client 50 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Shop:
    """The API over HTTP. `expect` is the status that the answer must have."""

    def __init__(self, url: str) -> None:
        self.url = url
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        self.http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60, verify=NO_TLS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, expect: int, json: Any = None, **headers: str) -> Any:
        """Call the API, check the status, and return the JSON. Header names have `_` for `-`."""
        sent_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.http.request(method, path, json=json, headers=sent_headers)
        assert answer.status_code == expect, (method, path, answer.status_code, answer.text)
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.json() if answer.content else None

    async def create_product(self, **fields: Any) -> dict[str, Any]:
        """Create a product: 10 units at 12.50 EUR unless `fields` say otherwise."""
        product = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10, **fields}
        return await self.call("POST", "/products", 201, product)

    async def create_cart(self, *lines: tuple[int, int]) -> str:
        """Create a cart with lines of (product id, quantity); its id."""
        cart = await self.call("POST", "/carts", 201)
        for product_id, quantity in lines:
            await self.add_item(cart["id"], product_id, quantity)
        return str(cart["id"])

    async def add_item(self, cart_id: str, product_id: int, quantity: int = 1, expect: int = 200) -> Any:
        return await self.call(
            "POST", f"/carts/{cart_id}/items", expect, {"product_id": product_id, "quantity": quantity}
        )

    async def check_out(self, cart_id: str, expect: int = 201, json: Any = None, **headers: str) -> Any:
        return await self.call("POST", f"/carts/{cart_id}/checkout", expect, json, **headers)

    async def checked_out_cart(self, *lines: tuple[int, int]) -> dict[str, Any]:
        """Create a cart with these lines, or one unit of a new product, and check it out; the checkout's answer."""
        lines = lines or (((await self.create_product())["id"], 1),)
        checkout: dict[str, Any] = await self.check_out(await self.create_cart(*lines))
        return checkout

    async def get_order(self, order_id: str) -> dict[str, Any]:
        return await self.call("GET", f"/orders/{order_id}", 200)

    async def get_order_state(self, order_id: str) -> tuple[str, str, int]:
        """The order's status, its payment's status and the amount refunded so far."""
        order = await self.get_order(order_id)
        return order["status"], order["payment"]["status"], order["payment"]["refunded_minor"]

    async def get_stock(self, product_id: int) -> int:
        return int((await self.call("GET", f"/products/{product_id}", 200))["stock"])

    async def wait_for_order(self, order_id: str, status: str, payment: str | None = None) -> dict[str, Any]:
        """The order, once it and its payment have these statuses."""

        async def order_with_statuses() -> dict[str, Any] | None:
            order = await self.get_order(order_id)
            fits = order["status"] == status and payment in (None, order["payment"]["status"])
            return order if fits else None

        return await eventually(order_with_statuses)


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    """Whether the answer is a complete problem document with this status and code."""
    return (
        is_problem_document(status, answer.headers, answer.content)
        and answer.status_code == status
        and answer.json()["code"] == code
    )


def is_problem_document(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether these headers and this body are a complete problem document with this status."""
    document = orjson.loads(body)
    members = {"type", "title", "status", "detail", "code"}
    return (
        headers["content-type"] == "application/problem+json"
        and bool(headers["x-request-id"])
        and members <= document.keys()
        and all(document[member] for member in members)
        and document["status"] == status
        and document["type"] == f"/problems/{document['code']}"
        and (document["code"] != "invalid" or all(e.keys() == {"pointer", "message"} for e in document["errors"]))
    )


async def eventually(check: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
    """Call `check` until it returns something true; that."""
    deadline = time.monotonic() + seconds
    while not (result := await check()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)
    return result
