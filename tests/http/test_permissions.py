"""What each kind of credential may do, on every route: compared with permissions.txt, which people review.

`pytest tests/http/test_permissions.py --renew-permissions` writes it anew. A change of rights then shows in its diff.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import APIRouter, Depends, FastAPI

from service.http import policy
from service.http.policy import POLICY, MissingRule, authorize
from service.http.responses import HANDLERS
from service.http.routing import Router
from service.infra.db import Pool
from service.settings import Settings
from service.shop import access
from service.shop.principals import GUEST, ROLES, SCOPES, STAFF_SCOPES, Principal
from tests.client import ADMIN_TOKEN, Shop, eventually
from tests.conftest import login
from tests.provider import AUDIENCE, Provider, bearer

MATRIX = Path(__file__).with_name("permissions.txt")
HEAD = """\
What each kind of credential may do, as the running service answers. Written by tests/http/test_permissions.py.

`yes` is any answer but 401, 403 and 404. Credentials: a guest without any; a wrong, an expired and a revoked access
token; the owner of the cart or order; a stranger, who is another user; a user of each role; a key of each scope;
ADMIN_TOKEN. "(owned)": the cart or order has an owner. "(no owner)": its id is enough.
"""

Request = tuple[str, str, Any]


@pytest.fixture
def changed_settings(provider: Provider) -> dict[str, str]:
    return {"AUTH_ISSUER": provider.url, "AUTH_AUDIENCE": AUDIENCE, "ADMIN_TOKEN": ADMIN_TOKEN}


ENDPOINT = {"url": "https://example.com", "types": ["order.paid"]}


class Objects:
    """Makes what a request needs, new each time, because the request may change or delete it."""

    def __init__(self, shop: Shop, owner: str, database: asyncpg.Connection) -> None:
        self.shop, self.owner, self.database = shop, owner, database
        self.number = 0

    async def staff(self, method: str, path: str, expect: int, json: Any = None) -> Any:
        return await self.shop.call(method, path, expect, json, **bearer(ADMIN_TOKEN))

    async def category(self) -> int:
        self.number += 1
        return int((await self.staff("POST", "/categories", 201, {"name": f"Category {self.number}"}))["id"])

    async def product(self) -> int:
        product = {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 10}
        return int((await self.staff("POST", "/products", 201, product))["id"])

    async def cart(self, *, owned: bool) -> str:
        """A cart with one line, of the owner or of nobody."""
        headers = bearer(self.owner) if owned else {}
        cart = str((await self.shop.call("POST", "/carts", 201, **headers))["id"])
        line = {"product_id": await self.product(), "quantity": 1}
        await self.shop.call("POST", f"/carts/{cart}/items", 200, line, **headers)
        return cart

    async def order(self, *, owned: bool) -> str:
        """A pending order, of the owner or of nobody."""
        headers = bearer(self.owner) if owned else {}
        cart = await self.cart(owned=owned)
        return str((await self.shop.call("POST", f"/carts/{cart}/checkout", 201, **headers))["order_id"])

    async def endpoint(self) -> int:
        """An endpoint with a delivery of the id 1; others are deleted, because there may be only so many."""
        for old in (await self.staff("GET", "/event-endpoints", 200))["items"]:
            await self.staff("DELETE", f"/event-endpoints/{old['id']}", 204)
        endpoint = int((await self.staff("POST", "/event-endpoints", 201, ENDPOINT))["id"])
        await self.database.execute(
            "INSERT INTO event_deliveries (endpoint_id, id, event_id, type, subject, data) OVERRIDING SYSTEM VALUE"
            " VALUES ($1, 1, gen_random_uuid(), 'order.paid', 'product:1', '{}')",
            endpoint,
        )
        return endpoint

    async def stuck(self) -> str:
        self.number += 1
        name = f"evt_{self.number}"
        await self.database.execute(
            "INSERT INTO stuck_items (kind, id, reason) VALUES ('event_unhandled', $1, 'x')", name
        )
        return name

    async def request(self, call: str, *, owned: bool) -> Request:
        """A valid request to a route: method, path and body."""
        method, template = call.split(" ")
        bodies: dict[str, Any] = {
            "POST /categories": {"name": f"Category {time.time_ns()}"},
            "PATCH /categories/{category_id}": {"name": "Tents"},
            "POST /products": {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1},
            "PATCH /products/{product_id}": {"name": "Tent"},
            "PUT /products/by-sku/{sku}": {"name": "Tent", "price_minor": 1250, "currency": "EUR", "stock": 1},
            "POST /products/{product_id}/stock": {"delta": 1, "reason": "delivery"},
            "PUT /carts/{cart_id}/items/{product_id}": {"quantity": 1},
            "POST /stuck/{kind}/{id}/resolve": {"reason": "paid back in cash"},
            "POST /auth/revocations": {"sub": "nobody"},
            "POST /event-endpoints": ENDPOINT,
            "PATCH /event-endpoints/{endpoint_id}": {"active": True},
        }
        body = bodies.get(call)
        if call == "POST /carts/{cart_id}/items":
            body = {"product_id": await self.product(), "quantity": 1}
        makers: dict[str, Callable[[], Awaitable[object]]] = {
            "{category_id}": self.category,
            "{product_id}": self.product,
            "{cart_id}": lambda: self.cart(owned=owned),
            "{order_id}": lambda: self.order(owned=owned),
            "{endpoint_id}": self.endpoint,
            "{kind}/{id}": self.stuck,
        }
        path = template.replace("{code}", "invalid").replace("{name}", "favicon-32x32.png").replace("{sku}", "T-1")
        path = path.replace("{delivery_id}", "1")
        for name, make in makers.items():
            if name in path:
                made = str(await make())
                path = path.replace(name, f"event_unhandled/{made}" if name == "{kind}/{id}" else made)
        return method, path, body


async def credentials(shop: Shop, provider: Provider, settings: Settings, database_url: str) -> dict[str, str | None]:
    """One credential of each kind."""
    revoked = provider.token("revoked", "admin", iat=int(time.time()) - 1)
    pool = Pool(settings.model_copy(update={"database_url": login(database_url, "owner")}), "tests")
    keys = {
        f"key {scope}": await access.add_key(
            pool, name=scope.replace(":", "-"), scopes=[scope], days=1, created_by="tests"
        )
        for scope in SCOPES
    }
    await pool.aclose()
    await shop.call("POST", "/auth/revocations", 204, {"sub": "revoked"}, **bearer(ADMIN_TOKEN))

    async def is_revoked() -> bool:
        return (await shop.http.get("/products", headers=bearer(revoked))).status_code == 401

    await eventually(is_revoked)
    return {
        "guest": None,
        "wrong": provider.token("owner", "admin", kid="two"),
        "expired": provider.token("owner", "admin", iat=1, exp=100),
        "revoked": revoked,
        "owner": provider.token("owner"),
        "stranger": provider.token("stranger"),
        **{f"role {role}": provider.token(f"staff-{role}", role) for role in ROLES},
        **keys,
        "ADMIN_TOKEN": ADMIN_TOKEN,
    }


@pytest.fixture
def quick_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.identity.REVOCATIONS_SECONDS", 0.05)


async def test_the_matrix_is_as_reviewed(
    quick_revocations: None,
    shop: Shop,
    provider: Provider,
    settings: Settings,
    database_url: str,
    database: asyncpg.Connection,
    pytestconfig: pytest.Config,
) -> None:
    known = await credentials(shop, provider, settings, database_url)
    objects = Objects(shop, known["owner"] or "", database)
    blocks = [HEAD]
    for call, rule in POLICY.items():
        # A claim is about what has no owner; all other calls of an owner are made to both.
        for owned in (True, False) if rule == "owner" or "claim" in call else (False,):
            answers: dict[str, list[str]] = defaultdict(list)
            for name, credential in known.items():
                method, path, body = await objects.request(call, owned=owned)
                headers = {} if credential is None else bearer(credential)
                if call == "POST /webhooks/stripe":
                    headers["Stripe-Signature"] = "t=1,v1=x"
                answer = await shop.http.request(method, path, json=body, headers=headers)
                assert answer.status_code < 500, (call, name, answer.text)
                refused = answer.status_code in (401, 403, 404)
                text = f"{answer.status_code} {answer.json()['code']}" if refused else "yes"
                if scope := refused and answer.json().get("required_scope"):
                    text += f" ({scope})"
                answers[text].append(name)
            which = f" ({'owned' if owned else 'no owner'})" if rule == "owner" or "claim" in call else ""
            lines = [f"  {text}: {', '.join(_short(names))}" for text, names in sorted(answers.items(), reverse=True)]
            blocks.append("\n".join([f"{call}{which}: {rule}", *lines]))
    text = "\n\n".join(blocks) + "\n"
    if pytestconfig.getoption("--renew-permissions", default=False):
        MATRIX.write_text(text)
    assert MATRIX.read_text() == text


def _short(names: list[str]) -> list[str]:
    """`every key` instead of all keys, and `every role` instead of all roles."""
    for kind, known in (("role", ROLES), ("key", SCOPES)):
        all_of_kind = [f"{kind} {name}" for name in known]
        if set(all_of_kind) <= set(names):
            names = [
                f"every {kind}" if name == all_of_kind[0] else name for name in names if name not in all_of_kind[1:]
            ]
    return names


def test_roles_have_the_scopes_of_the_contract() -> None:
    viewer = {"catalog:read", "orders:read"}
    assert {role: set(scopes) for role, scopes in ROLES.items()} == {
        "viewer": viewer,
        "catalogue": {"catalog:read", "catalog:write", "stock:write"},
        "support": viewer | {"orders:cancel"},
        "refunds": viewer | {"orders:refund"},
        "admin": set(SCOPES) - {"storefront"},
    }
    assert set(SCOPES) == {*STAFF_SCOPES, "storefront"}


async def test_the_database_knows_the_same_scopes(database: asyncpg.Connection) -> None:
    definition = await database.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'api_keys_scopes_known'"
    )
    assert all(f"'{scope}'" in definition for scope in SCOPES)
    assert definition.count("::text") == len(SCOPES)


@pytest.mark.parametrize(
    ("functions", "what"),
    [
        ({"POST /open": [authorize]}, "POST /open"),
        ({"POST /products": [authorize], "GET /health/live": [], "GET /extra": []}, "GET /extra"),
        ({"POST /products": []}, "POST /products does not depend"),
        ({}, "POST /products"),
    ],
)
def test_a_route_without_its_rule_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, functions: dict[str, list[object]], what: str
) -> None:
    monkeypatch.setattr(policy, "POLICY", {"POST /products": "catalog:write"})
    with pytest.raises(MissingRule, match=what):
        policy.check(functions)


def test_a_route_with_a_rule_cannot_begin_like_one_whose_header_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "POLICY", {"POST /docs-upload": "catalog:write"})
    with pytest.raises(MissingRule, match="/docs-upload"):
        policy.check({"POST /docs-upload": [authorize]})


def test_a_guard_counts_wherever_it_is_declared() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, exception_handlers=HANDLERS)
    inner = APIRouter()

    @inner.post("/own")
    async def own(principal: policy.Caller) -> str:
        return principal.actor

    @inner.post("/none")
    async def none() -> str:
        return "x"

    app.include_router(inner)
    guarded = APIRouter()

    @guarded.post("/router")
    async def by_router() -> str:
        return "x"

    app.include_router(guarded, dependencies=[Depends(authorize)])
    functions = Router(app).functions
    assert [call for call, used in functions.items() if authorize in used] == ["POST /own", "POST /router"]


def test_a_principal_is_staff_by_any_scope_of_staff() -> None:
    assert not GUEST.is_staff
    assert not Principal("key:shop", frozenset({"storefront"})).is_staff
    assert Principal("key:erp", frozenset({"stock:write"})).is_staff
