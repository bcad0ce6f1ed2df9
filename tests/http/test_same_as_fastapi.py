"""Every route of the service, by our router and by FastAPI itself: equal responses, or stricter for a listed reason."""

import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Receive, Scope, Send

import service.app
from service.app import Service, create_app
from service.dev.stripe_standin.webhooks import signature
from service.http.policy import POLICY
from service.http.routing import Router
from service.settings import Settings
from tests.client import ADMIN_TOKEN
from tests.conftest import WEBHOOK_SECRET, cloned, login

STAFF = f"Bearer {ADMIN_TOKEN}"
JSON = {"Content-Type": "application/json"}
NOBODY = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Answer:
    """What is compared of a response."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def code(self) -> str | None:
        """The code of a problem."""
        is_problem = self.body and self.headers.get("content-type") == "application/problem+json"
        return str(json.loads(self.body)["code"]) if is_problem else None


@dataclass(frozen=True)
class Case:
    """A request to a route; `{cart}` and such in its path are ids of the side that it is sent to."""

    path: str
    body: str | bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    credential: str | None = STAFF

    def by_a_stranger(self, **changes: Any) -> "Case":
        """Without a credential, and to a cart and an order that do not exist."""
        return replace(self, credential=None, path=re.sub(r"\{\w+\}", NOBODY, self.path), **changes)


# For every route: valid requests, in the order in which the routes are gone through. The hostile ones are made of them.
VALID: dict[str, list[Case]] = {
    "POST /categories": [
        Case("/categories", '{"name": "Camping"}', {"Idempotency-Key": "a"}),
        Case("/categories", '{"name": "Camping"}', {"Idempotency-Key": "a"}),
        Case("/categories", '{"name": "Outdoor", "slug": "outdoor"}'),
        Case("/categories", '{"name": "Outdoor"}'),
    ],
    "GET /categories": [Case("/categories"), Case("/categories?limit=1"), Case("/categories?after_id=1&limit=1000")],
    "PATCH /categories/{category_id}": [
        Case("/categories/1", '{"name": "Tents"}'),
        Case("/categories/1", '{"slug": "outdoor"}'),
        Case("/categories/99", '{"name": "Tents"}'),
    ],
    "DELETE /categories/{category_id}": [Case("/categories/2"), Case("/categories/2")],
    "POST /auth/revocations": [
        Case("/auth/revocations", '{"sub": "anna"}', {"Idempotency-Key": "r"}),
        Case("/auth/revocations", '{"sub": "anna"}', {"Idempotency-Key": "r"}),
        Case("/auth/revocations", '{"sub": ""}'),
    ],
    "POST /event-endpoints": [
        Case("/event-endpoints", '{"url": "https://example.com", "types": ["order.placed"]}', {"Idempotency-Key": "x"}),
        Case("/event-endpoints", '{"url": "https://example.com", "types": ["order.placed"]}', {"Idempotency-Key": "x"}),
        Case("/event-endpoints", '{"url": "https://127.1", "types": ["order.paid"]}'),
        Case("/event-endpoints", '{"url": "https://example.org", "types": ["order.paid"], "description": "books"}'),
    ],
    "GET /event-endpoints": [Case("/event-endpoints"), Case("/event-endpoints?limit=1&after_id=1")],
    "GET /event-endpoints/{endpoint_id}": [Case("/event-endpoints/1"), Case("/event-endpoints/99")],
    "PATCH /event-endpoints/{endpoint_id}": [
        Case("/event-endpoints/2", '{"active": false}'),
        Case("/event-endpoints/2", '{"types": []}'),
        Case("/event-endpoints/99", "{}"),
    ],
    "POST /event-endpoints/{endpoint_id}/rotate": [
        Case("/event-endpoints/1/rotate", headers={"Idempotency-Key": "y"}),
        Case("/event-endpoints/1/rotate", headers={"Idempotency-Key": "y"}),
        Case("/event-endpoints/99/rotate", "{}"),
    ],
    "POST /products": [
        Case("/products", '{"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 100, "category_id": 1}'),
        Case(
            "/products",
            '{"name": "Mug", "price_minor": 500, "currency": "EUR", "stock": 100}',
            {"Idempotency-Key": "b"},
        ),
        Case(
            "/products",
            '{"name": "Mug", "price_minor": 501, "currency": "EUR", "stock": 100}',
            {"Idempotency-Key": "b"},
        ),
        Case("/products", '{"name": "Off", "price_minor": 500, "currency": "EUR", "stock": 1, "active": false}'),
    ],
    "GET /products": [
        Case("/products"),
        Case("/products"),
        Case("/products?limit=1"),
        Case("/products?limit=1&limit=2"),
        Case("/products?after_id=1&category=camping"),
        Case("/products?category=nowhere"),
        Case("/products?active=all&limit=1"),
        Case("/products?active=false&category=camping"),
        Case("/products?stock_at_most=0", credential=None),
        Case("/products?active=yes"),
    ],
    "GET /search": [
        Case("/search"),
        Case("/search?q=tent&category=camping&currency=EUR&min_price_minor=1&max_price_minor=9999&available=true"),
        Case("/search?sort=-price&currency=EUR&limit=1"),
        Case("/search?sort=price"),
        Case("/search?category=nowhere"),
    ],
    "GET /products/{product_id}": [
        Case("/products/1"),
        Case("/products/3", credential=None),
        Case("/products/3"),
        Case("/products/1", headers={"If-None-Match": '"1-100"'}),
        Case("/products/1", headers={"If-None-Match": "*"}),
        Case("/products/1", headers={"If-None-Match": ""}),
    ],
    "PATCH /products/{product_id}": [
        Case("/products/2", '{"name": "Large mug", "category_id": null}', {"If-Match": '"1-7"'}),
        Case("/products/2", '{"name": "Large mug"}', {"If-Match": '"1-7"'}),
        Case("/products/2", "{}"),
    ],
    "DELETE /products/{product_id}": [Case("/products/3"), Case("/products/99")],
    "PUT /products/by-sku/{sku}": [
        Case("/products/by-sku/T-1", '{"name": "Tent", "price_minor": 1, "currency": "EUR", "stock": 1}'),
        Case("/products/by-sku/T-1", '{"name": "Tent", "stock": 2}'),
        Case("/products/by-sku/T-1", '{"name": "Big tent"}', {"If-Match": '"7-1"'}),
        Case("/products/by-sku/T-2", "{}"),
        Case("/products/by-sku/T%202", "{}"),
    ],
    "GET /products/{product_id}/stock": [
        Case("/products/1/stock"),
        Case("/products/1/stock?limit=1&after_id=9"),
        Case("/products/99/stock"),
        Case("/products/1/stock", credential=None),
    ],
    "POST /products/{product_id}/stock": [
        Case("/products/1/stock", '{"delta": 5, "reason": "delivery"}', {"Idempotency-Key": "c"}),
        Case("/products/1/stock", '{"delta": 0, "reason": "delivery"}'),
        Case("/products/1/stock", '{"delta": -999, "reason": "theft"}'),
    ],
    "POST /carts": [
        Case("/carts"),
        Case("/carts", '{"reference": "web-4711"}'),
        Case("/carts", "{}", {"Idempotency-Key": "d"}),
        Case("/carts", "{}", {"Idempotency-Key": "d"}),
    ],
    "POST /carts/{cart_id}/items": [
        Case("/carts/{cart}/items", '{"product_id": 1, "quantity": 2}', {"Idempotency-Key": "e"}),
        Case("/carts/{cart}/items", '{"product_id": 1, "quantity": 2}', {"Idempotency-Key": "e"}),
        Case("/carts/{cart}/items", '{"product_id": 3, "quantity": 2}'),
        Case(f"/carts/{NOBODY}/items", '{"product_id": 1, "quantity": 2}'),
    ],
    "PUT /carts/{cart_id}/items/{product_id}": [
        Case("/carts/{cart}/items/2", '{"quantity": 3}'),
        Case("/carts/{cart}/items/99", '{"quantity": 3}'),
    ],
    "DELETE /carts/{cart_id}/items/{product_id}": [Case("/carts/{cart}/items/2"), Case("/carts/{cart}/items/2")],
    "GET /carts/{cart_id}": [Case("/carts/{cart}"), Case("/carts/{CART}"), Case(f"/carts/{NOBODY}")],
    "POST /carts/{cart_id}/checkout": [
        Case("/carts/{cart}/checkout", '{"expected_total_minor": 1}'),
        Case("/carts/{cart}/checkout", '{"expected_total_minor": 2500}', {"Idempotency-Key": "f"}),
        Case("/carts/{cart}/checkout", '{"expected_total_minor": 2500}', {"Idempotency-Key": "f"}),
        Case("/carts/{cart}/checkout"),
    ],
    "POST /carts/{cart_id}/claim": [Case("/carts/{cart}/claim"), Case("/carts/{cart}/claim", credential=None)],
    "GET /me/carts": [Case("/me/carts"), Case("/me/carts", credential=None)],
    "GET /orders/{order_id}": [Case("/orders/{order}"), Case(f"/orders/{NOBODY}")],
    "GET /orders/{order_id}/timeline": [
        Case("/orders/{order}/timeline"),
        Case("/orders/{order}/timeline", credential=None),
        Case("/orders/{order}/timeline", credential="Bearer guess"),
        Case(f"/orders/{NOBODY}/timeline"),
    ],
    "GET /orders": [
        Case("/orders"),
        Case("/orders?status=PAID"),
        Case("/orders?limit=1&after_id=9"),
        Case("/orders?status=x"),
        Case("/orders?payment_status=INITIATED&limit=1"),
        Case("/orders?q=1"),
    ],
    "POST /orders/{order_id}/claim": [Case("/orders/{order}/claim"), Case("/orders/{order}/claim", credential=None)],
    "GET /me/orders": [Case("/me/orders"), Case("/me/orders", credential=None)],
    "POST /orders/{order_id}/cancel": [
        Case("/orders/{order}/cancel", headers={"Idempotency-Key": "g"}),
        Case("/orders/{order}/cancel", headers={"Idempotency-Key": "g"}),
        Case("/orders/{order}/cancel", "{}"),
    ],
    "POST /orders/{order_id}/refund": [
        Case("/orders/{order}/refund", '{"amount_minor": 1, "restock": false}'),
        Case("/orders/{order}/refund", '{"items": [{"product_id": 1, "quantity": 1, "restock": true}]}'),
        Case("/orders/{order}/refund"),
    ],
    "GET /event-endpoints/{endpoint_id}/deliveries": [
        Case("/event-endpoints/1/deliveries"),
        Case("/event-endpoints/1/deliveries?limit=1&after_id=9"),
        Case("/event-endpoints/99/deliveries"),
    ],
    "POST /event-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend": [
        Case("/event-endpoints/1/deliveries/1/resend", headers={"Idempotency-Key": "z"}),
        Case("/event-endpoints/1/deliveries/1/resend", headers={"Idempotency-Key": "z"}),
        Case("/event-endpoints/2/deliveries/1/resend"),
    ],
    "DELETE /event-endpoints/{endpoint_id}": [Case("/event-endpoints/2"), Case("/event-endpoints/2")],
    "GET /audit": [
        Case("/audit"),
        Case("/audit?subject=product:1&limit=1&after_id=9"),
        Case("/audit?actor=open&subject=product:1"),
        Case("/audit?actor="),
    ],
    "GET /stuck": [Case("/stuck"), Case("/stuck?kind=refund_open&limit=1&after_id=9"), Case("/stuck?kind=x")],
    "POST /stuck/{kind}/{id}/resolve": [
        Case("/stuck/refund_open/x/resolve", '{"reason": "paid in cash"}', {"Idempotency-Key": "h"}),
        Case("/stuck/x/x/resolve", '{"reason": "paid in cash"}'),
    ],
    "POST /webhooks/stripe": [
        Case(
            "/webhooks/stripe",
            '{"id": "evt_1", "type": "x", "data": {"object": {}}}',
            {"Stripe-Signature": "{signature}"},
        ),
        Case(
            "/webhooks/stripe",
            '{"id": "evt_1", "type": "x", "data": {"object": {}}}',
            {"Stripe-Signature": "{signature}"},
        ),
        Case("/webhooks/stripe", "{}", {"Stripe-Signature": "{signature}"}),
        Case("/webhooks/stripe", "{}", {"Stripe-Signature": "t=1,v1=0"}),
        Case("/webhooks/stripe", "{}"),
    ],
    "GET /payments/success": [Case("/payments/success?order_id={order}&session_id=x"), Case("/payments/success")],
    "GET /payments/cancel": [Case("/payments/cancel?order_id={order}"), Case("/payments/cancel?order_id=x&other=1")],
    "GET /problems/{code}": [Case("/problems/busy"), Case("/problems/invalid?x=1"), Case("/problems/nope")],
    "GET /health/live": [Case("/health/live"), Case("/health/live?x=1")],
    "GET /health/ready": [Case("/health/ready")],
    "GET /docs": [Case("/docs"), Case("/docs?x=1")],
    "GET /docs/static/{name}": [Case("/docs/static/favicon-32x32.png"), Case("/docs/static/nope")],
    "GET /openapi.json": [Case("/openapi.json")],
}

# Bodies, and headers beside them, for each route that has a body. Those that only FastAPI accepts as JSON have an
# unknown member: none of them changes anything.
UNKNOWN = '{"c4nary": 1}'
BODIES: list[tuple[bytes, dict[str, str]]] = [
    *((body, JSON) for body in (b"", b"  ", b"{}", b"[]", b"null", b"1", b'"x"', UNKNOWN.encode(), b'{"name": 1}')),
    *((body, JSON) for body in (b"{", b"\xff", b"[" * 60_000, b'{"c4nary": NaN}', b'{"c4nary": "\\ud800"}')),
    *((body, JSON) for body in (b"\xef\xbb\xbf" + UNKNOWN.encode(), UNKNOWN.encode("utf-16"))),
    *((body, JSON) for body in (b'{"quantity": 1e400}', b'{"product_id": 9223372036854775808}')),
    (UNKNOWN.encode().ljust(64 * 1024 + 1), JSON),
    (UNKNOWN.encode(), {**JSON, "Content-Length": "70000"}),
    (b"{}", {"Content-Type": "application/merge-patch+json"}),
    (b"{}", {"Content-Type": "text/plain"}),
    (b"{}", {}),
    (b"{}", {**JSON, "Idempotency-Key": ""}),
    (b"{}", {**JSON, "Idempotency-Key": 256 * "k"}),
    (b"{", {**JSON, "Idempotency-Key": "\t"}),
]
ODD_SUFFIXES = ["?c4nary=1", "?c4nary", "?", "%0a", "/", "%00", ";x", "%2f"]
IMPOSSIBLE_IDS = [
    "0",
    "-1",
    "x",
    "1.0",
    "01",
    "%201",
    "1%0a",
    "9223372036854775808",
    NOBODY[:-1],
    f"{NOBODY}0",
    "%00",
    "%ff",
]
CREDENTIALS = ["", "Bearer", "Bearer guess", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, f"bearer {ADMIN_TOKEN}"]
METHODS = ["HEAD", "PUT", "PATCH", "DELETE", "POST", "GET", "OPTIONS", "TRACE", "BREW"]


def hostile(route: str, *, has_body: bool) -> Iterator[tuple[str, Case]]:
    """Requests like the first valid one, each wrong in one way: (method, case)."""
    method, template = route.split()
    first = replace(VALID[route][0], path=VALID[route][0].path.partition("?")[0])
    # What FastAPI accepts and we refuse must not change anything, or both databases would differ from then on.
    harmless = first if method == "GET" else first.by_a_stranger()
    yield from ((method, replace(harmless, path=harmless.path + suffix)) for suffix in ODD_SUFFIXES)
    names = template.split("/")
    for place in (place for place, name in enumerate(names) if name.startswith("{")):
        parts = first.path.split("/")
        for text in IMPOSSIBLE_IDS:
            yield method, replace(first, path="/".join([*parts[:place], text, *parts[place + 1 :]]))
    for credential in CREDENTIALS:
        yield method, replace(first, credential=credential)
        yield method, replace(first, credential=credential, body=b"{", headers=JSON)
    if has_body:
        yield from ((method, replace(first, body=body, headers=headers)) for body, headers in BODIES)
    yield from ((other, first.by_a_stranger()) for other in METHODS if other != method)


@dataclass
class Side:
    """The service with a database of its own, answered by FastAPI or by our router."""

    client: httpx.AsyncClient
    # The last cart and order that were made.
    ids: dict[str, str] = field(default_factory=dict)

    async def send(self, method: str, case: Case) -> Answer:
        """The response, without what is random in it."""
        body = case.body.encode() if isinstance(case.body, str) else case.body or b""
        headers = {**(JSON if isinstance(case.body, str) else {}), **case.headers}
        if headers.get("Stripe-Signature") == "{signature}":
            headers["Stripe-Signature"] = signature(body, WEBHOOK_SECRET, int(time.time()))
        if case.credential is not None:
            headers["Authorization"] = case.credential
        path = re.sub(r"\{(\w+)\}", lambda match: self.ids.get(match[1], NOBODY), case.path)
        answer = await self.client.request(method, path, content=body, headers=headers)
        if answer.status_code == 201 and path == "/carts":
            self.ids |= {"cart": answer.json()["id"], "CART": answer.json()["id"].upper()}
        if answer.status_code == 201 and path.endswith("/checkout"):
            self.ids["order"] = answer.json()["order_id"]
        answer.headers.pop("x-request-id")
        described = {name: self._without_random(value) for name, value in answer.headers.items()}
        return Answer(answer.status_code, described, self._without_random(answer.text))

    def _without_random(self, text: str) -> str:
        text = re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z|\d\d:\d\d UTC", "<time>", text)
        for name, value in self.ids.items():
            text = text.replace(value, f"<{name}>")
        names: dict[str, str] = {}
        return re.sub(
            r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|cs_test_\w+|http://127[\w.:/]+|[0-9a-f]{32}-[0-9a-f]{16}"
            r"|evt_[0-9a-f]{32}|whsec_[\w+/=]+",
            lambda match: names.setdefault(match[0], f"<{len(names)}>"),
            text,
        )


def by_fastapi(app: FastAPI) -> ASGIApp:
    """In the place of our router: FastAPI itself."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await FastAPI.__call__(app, scope, receive, send)

    # What the policy checks at start.
    answer.functions = Router(app).functions  # type: ignore[attr-defined]
    return answer


@pytest.fixture
def changed_settings() -> dict[str, str]:
    return {"ADMIN_TOKEN": ADMIN_TOKEN, "MAX_PENDING_PER_CLIENT": "0"}


@pytest.fixture
async def sides(
    settings: Settings, template: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Side, Side, Service]]:
    """FastAPI and our router, each with a database and a cache of its own, and the second's application."""
    async with AsyncExitStack() as stack:
        sides = []
        for number, router in enumerate((by_fastapi, Router)):
            database_url = await stack.enter_async_context(cloned(template))
            changes = {"database_url": login(database_url, "app"), "redis_url": f"{settings.redis_url}{number + 1}"}
            with monkeypatch.context() as patch:
                patch.setattr(service.app, "Router", router)
                app = create_app(settings.model_copy(update=changes))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://shop"))
            sides.append(Side(client))
        yield sides[0], sides[1], app


# Why our router may refuse what FastAPI answers otherwise, by the code of each.
BODY_LAST = "FastAPI reads the body before it runs dependencies and validates the path"
NO_CONTROL = "FastAPI's patterns accept a newline at the end of a path; no path of ours has a control character"
ALLOW = "FastAPI's Allow names the methods of one route only"
BOUND = "FastAPI does not bound a body"
MEDIA_TYPE = "FastAPI passes a body of another type to the model, which refuses it"
STRICT_JSON = "FastAPI's JSON has NaN, lone surrogates, UTF-16 and byte order marks"


def reason(case: Case, by_fastapi: Answer, ours: Answer) -> str | None:
    """Why both may differ; None where they may not."""
    if ours.status < 400:
        return None
    if ours.code == "not_found" and re.search("%0[0a]", case.path):
        return NO_CONTROL
    if ours.status == by_fastapi.status == 405 and _allowed(by_fastapi) < _allowed(ours):
        return ALLOW
    if by_fastapi.code == "malformed" and ours.code in BEFORE_THE_BODY:
        return BODY_LAST
    return {"body_too_large": BOUND, "unsupported_media_type": MEDIA_TYPE, "malformed": STRICT_JSON}.get(str(ours.code))


def _allowed(answer: Answer) -> set[str]:
    return set(answer.headers["allow"].split(", "))


BEFORE_THE_BODY = {
    *("unauthorized", "invalid_token", "forbidden", "not_found"),
    *("invalid", "body_too_large", "unsupported_media_type"),
}


async def test_every_route_is_answered_as_by_fastapi(sides: tuple[Side, Side, Service]) -> None:
    """Goal: our router adds no behaviour of its own. Method: every request goes to both, whose databases run alike."""
    fastapi, ours, app = sides
    contexts = {f"{method} {c.path}": c for c in iter_route_contexts(app.routes) for method in c.methods or ()}
    assert contexts.keys() == VALID.keys(), "a route without requests here, or requests without a route"
    equal, reasons = 0, Counter[str]()
    for route, valid in VALID.items():
        method = route.split()[0]
        has_body = bool(contexts[route].dependant.body_params) or "requestBody" in (contexts[route].openapi_extra or {})
        succeeded = False
        for sent_method, case in [*((method, case) for case in valid), *hostile(route, has_body=has_body)]:
            expected, answer = await fastapi.send(sent_method, case), await ours.send(sent_method, case)
            # Nothing is paid here, so that a refund reaches the shop and no further. Nothing is stuck.
            succeeded |= answer.status < 400 or answer.code == "order_not_refundable" or "/stuck/" in route
            # Nobody has an access token here.
            succeeded |= POLICY[route] == "user" and answer.code == "forbidden"
            if answer == expected:
                equal += 1
            else:
                why = reason(case, expected, answer)
                assert why, (sent_method, case, expected, answer)
                reasons[why] += 1
        assert succeeded, f"{route}: every request was refused"
    assert reasons.keys() == {BODY_LAST, NO_CONTROL, ALLOW, BOUND, MEDIA_TYPE, STRICT_JSON}
    assert equal > 2 * reasons.total()
