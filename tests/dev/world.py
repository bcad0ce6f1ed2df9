"""A served stand-in with the clients that its tests use: the SDK, plain HTTP and a webhook endpoint."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.dev.stripe_standin import StripeStandin
from tests.conftest import served

SECRET = "whsec_of_the_tests"
SHOP = "http://shop.test"
UNREACHABLE = "http://127.0.0.1:9/hook"


@asynccontextmanager
async def sdk(base: str, key: str = "sk_test_1") -> AsyncIterator[Any]:
    """The SDK's client without retries; untyped, since tests send what its types forbid."""
    transport: Any = stripe.AIOHTTPClient(timeout=5)
    yield stripe.StripeClient(key, base_addresses={"api": base}, http_client=transport, max_network_retries=0)
    await transport.close_async()


class Receiver:
    """A webhook endpoint that verifies every signature; it answers `statuses` in order, then 200, after `seconds`."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seconds = 0.0
        self.refused: list[dict[str, Any]] = []
        self.accepted: list[dict[str, Any]] = []
        self.app = Starlette(routes=[Route("/hook", self.receive, methods=["POST"])])

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        stripe.WebhookSignature.verify_header(body, request.headers["stripe-signature"], SECRET, tolerance=60)
        await asyncio.sleep(self.seconds)
        status = self.statuses.pop(0) if self.statuses else 200
        (self.accepted if status == 200 else self.refused).append(orjson.loads(body))
        return Response(status_code=status)

    def types(self) -> list[str]:
        return [event["type"] for event in self.accepted]

    def event(self, kind: str) -> dict[str, Any]:
        """The first accepted event of a type."""
        return next(event for event in self.accepted if event["type"] == kind)

    async def until(self, count: int, seconds: float = 5) -> None:
        """Wait until `count` events are accepted."""
        await eventually(lambda: len(self.accepted) >= count, seconds)


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing signals these conditions
            await asyncio.sleep(0.01)


class World:
    """A served stand-in, an SDK client and a plain HTTP client for it."""

    def __init__(self, standin: StripeStandin, base: str, client: Any, http: aiohttp.ClientSession) -> None:
        self.standin = standin
        self.base = base
        self.client = client
        self.sessions = client.v1.checkout.sessions
        self.refunds = client.v1.refunds
        self.intents = client.v1.payment_intents
        self.events = client.v1.events
        self.http = http

    async def create(self, key: str | None = None, **changes: Any) -> Any:
        """Create a session, with an idempotency key if there is one."""
        options = {} if key is None else {"idempotency_key": key}
        return await self.sessions.create_async(parameters(**changes), options)

    async def create_paid(self, amount: int = 2500) -> Any:
        """A session that has been paid, as the API shows it."""
        session = await self.create(line_items=[line(amount, 1)])
        self.standin.pay(session.id)
        return await self.sessions.retrieve_async(session.id)

    async def create_when_key_is_free(self, key: str) -> Any:
        async with asyncio.timeout(5):
            while True:
                try:
                    return await self.create(key=key)
                except stripe.APIError as error:
                    if error.http_status != 409:
                        raise
                    await asyncio.sleep(0.01)

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        async with self.http.request(method, f"{self.base}/_control{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def press(self, session: Any, action: str, **fields: str) -> tuple[int, str, str]:
        """Press a button of the payment page; the response's status, Location and body."""
        form = {"action": action, **fields}
        async with self.http.post(session.url, data=form, allow_redirects=False) as response:
            return response.status, response.headers.get("Location", ""), await response.text()

    async def page(self, url: str) -> tuple[int, str]:
        """The status and the text of a page."""
        async with self.http.get(url) as response:
            return response.status, await response.text()


def line(amount: int = 1250, quantity: int = 2, name: str = "Blue cup", currency: str = "usd") -> dict[str, Any]:
    price = {"currency": currency, "unit_amount": amount, "product_data": {"name": name}}
    return {"price_data": price, "quantity": quantity}


def parameters(**changes: Any) -> Any:
    """Parameters of a session of 25.00 USD; a change to None removes one."""
    defaults = {
        "mode": "payment",
        "line_items": [line()],
        "success_url": f"{SHOP}/done?session_id={{CHECKOUT_SESSION_ID}}",
        "cancel_url": f"{SHOP}/cancelled",
        "client_reference_id": "order-1",
        "metadata": {"order_id": "order-1"},
        "payment_intent_data": {"metadata": {"order_id": "order-1"}},
    }
    return {key: value for key, value in (defaults | changes).items() if value is not None}


@asynccontextmanager
async def world_of(standin: StripeStandin) -> AsyncIterator[World]:
    async with served(standin.app) as base, sdk(base) as client, aiohttp.ClientSession() as http:
        yield World(standin, base, client, http)


async def refused(call: Awaitable[Any], status: int, code: str | None = None, param: str | None = None) -> Any:
    """The SDK's error for a call that Stripe refuses, after a check of its status, code and parameter."""
    with pytest.raises(stripe.StripeError) as caught:
        await call
    error: Any = caught.value
    # The SDK gives some classes of errors neither `code` nor `param`.
    body = error.json_body["error"]
    assert (error.http_status, body.get("code"), body.get("param")) == (status, code, param), error
    assert error.request_id.startswith("req_")
    return error
